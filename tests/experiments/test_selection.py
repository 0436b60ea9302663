"""The best member of a finished run: chosen by fresh episodes, scored by others."""

import json
from pathlib import Path

import pytest

from experiments import evaluate, gym, launch
from experiments.analysis import history, schedule, scores, selection
from experiments.members import evaluation
from experiments.pages import summary
from pbt import lineage, store

RUN = Path("run")


@pytest.fixture
def run_store(train):
    """The store of a finished run of six members, of which four play for the choice."""
    flags = ("--agent", "a3c", "--env", "Catch", "--population", "6", "--workers", "1")
    steps = ("--num-envs", "4", "--total-steps", "1200", "--report-interval", "400")
    out = train(gym, *flags, *steps, "--ready-interval", "800", "--run-dir", RUN)
    line = "choosing the best of 4 members by 16 fresh episodes each"
    before, _, chosen = out.partition(line)
    assert "finished: 6 members" in before
    with store.Store.open(RUN) as opened:
        best = evaluation.best_member(opened).id
        assert chosen.startswith(f"\nscoring member {best} by fresh episodes\n")
        yield opened


def training_best(run_store):
    members = run_store.members()
    return lineage.best_member(members, lineage.Tree(run_store.versions(), run_store.config.copy))


def test_the_candidates_are_the_few_best_and_their_means_are_what_they_play(run_store):
    chosen = selection.read(RUN, run_store.members())
    ranked = history.History.read(run_store, "run").ranked
    assert [one.member for one in chosen.candidates] == [member.id for member in ranked[:4]]
    for one in chosen.candidates:
        member = run_store.member(one.member)
        again = evaluation.evaluate(
            run_store, RUN, member, selection.EPISODES, launch.SELECTION_SEED
        )
        assert (again.mean, member.version) == (one.mean, one.version)
    best = evaluation.best_member(run_store)
    assert best.id == chosen.chosen.member
    assert chosen.chosen.mean == max(one.mean for one in chosen.candidates)
    # Other episodes score it.
    scored = json.loads(scores.evaluation_path(RUN, best).read_text())
    assert scored["protocol"].endswith(f"evaluation seed {launch.EVALUATION_SEED}")
    assert launch.EVALUATION_SEED != launch.SELECTION_SEED


def rewrite(change):
    values = json.loads(selection.path(RUN).read_text())
    change(values["candidates"])
    selection.path(RUN).write_text(json.dumps(values))


def test_everything_that_names_the_best_member_follows_the_choice(run_store, command):
    last = json.loads(selection.path(RUN).read_text())["candidates"][-1]["member"]
    assert last != training_best(run_store).id
    rewrite(lambda candidates: candidates[-1].update(mean=99.0))
    assert evaluation.best_member(run_store).id == last
    read = history.History.read(run_store, "run")
    assert read.best.id == last
    assert schedule.of_run(run_store) == schedule.of_run(run_store, last)
    assert command(evaluate, RUN, "--episodes", "2").out.startswith(f"member {last},")
    text = summary.summary(read, RUN)
    assert f"## Best member: {last}" in text
    assert "chosen by 16 other fresh episodes each of the 4 members" in text


def test_a_choice_that_does_not_fit_the_members_is_none(run_store):
    whole = selection.path(RUN).read_text()
    changes = (
        lambda candidates: candidates[-1].update(mean=99.0, version=-1),  # of other weights
        lambda candidates: candidates[-1].update(mean=99.0, member=77),
        lambda candidates: candidates[-1].update(mean=float("nan")),
        lambda candidates: candidates[-1].pop("mean"),
        lambda candidates: candidates.clear(),
    )
    for change in changes:
        selection.path(RUN).write_text(whole)
        rewrite(change)
        assert selection.read(RUN, run_store.members()) is None
        assert evaluation.best_member(run_store).id == training_best(run_store).id
    selection.path(RUN).write_text(whole[:40])
    assert selection.read(RUN, run_store.members()) is None


def test_it_is_made_once(run_store):
    before = selection.path(RUN).read_bytes()
    assert evaluation.select(run_store, RUN, seed=12345) == evaluation.best_member(run_store)
    assert selection.path(RUN).read_bytes() == before


def test_of_equal_means_the_higher_training_score_wins():
    one, two = (selection.Candidate(m, 1, float(m), 5.0) for m in (1, 2))
    assert selection.Selection((one, two)).chosen == two
