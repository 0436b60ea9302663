"""Studies: arms that differ in one thing, runs that are shared, and how they are told."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import launch, study
from experiments.analysis import outcome, provenance, schedule
from experiments.studies import definitions, plan, schedules
from pbt import decide, store
from terminal import start

RESULTS = Path(__file__).parents[2] / "results"
TINY = (
    *("--world", "Catch", "--population", "2", "--num-envs", "4", "--seeds", "2"),
    *("--total-steps", "240", "--report-interval", "120", "--ready-interval", "120"),
    *("--tuned", "learning_rate=0.01", "entropy_cost=0.01", "unroll_length=5"),
    *("--run-dir", "runs"),
)


def settings(arm, seed=0, winner=None):
    base = definitions.base_settings(definitions.DEFAULT_ENV)
    tuned = definitions.TUNED[definitions.DEFAULT_ENV, "a3c"]
    return definitions.arm_config(arm, base, seed, tuned, winner, decay=tuned).to_json()


def flat_differences(one, other):
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize(
    ("name", "arm", "differs"),
    [
        ("random-search", "random search", {"exploit"}),
        ("random-search", "hand-tuned", {"exploit", "space"}),
        ("exploit", "truncation", {"exploit"}),
        ("exploit", "binary tournament", {"exploit"}),
        ("copy", "weights only", {"copy"}),
        ("copy", "hyperparameters only", {"copy"}),
        ("copy", "nothing, but explore", {"copy"}),
        ("explore", "factors 0.5 and 2", {"perturb_factors"}),
        ("explore", "resample or perturb", {"explore"}),
        ("explore", "whenever ready", {"explore_at"}),
        ("explore", "not at all", {"explore"}),
        ("ready", "ready x 4", {"ready_interval"}),
        ("population-size", "16 members", {"population"}),
        ("schedule", "middle of the prior", {"exploit", "space"}),
    ],
)
def test_an_arm_differs_from_pbt_in_what_it_names(name, arm, differs):
    (found, *_) = (other for other in definitions.STUDIES[name].arms if other.name == arm)
    assert flat_differences(settings(found), settings(definitions.PBT)) == differs


def test_panels_of_population_size_have_equal_steps_or_equal_totals():
    found = {
        (arm.panel, arm.name): settings(arm) for arm in definitions.STUDIES["population-size"].arms
    }
    assert len(found) == 8
    for (panel, _), values in found.items():
        total = values["population"] * values["total_steps"]
        if panel == definitions.EQUAL_STEPS:
            assert values["total_steps"] == definitions.REPEAT_PREVIOUS.total_steps
        else:
            assert total == 8 * definitions.REPEAT_PREVIOUS.total_steps
    eights = [values for (_, name), values in found.items() if name == "8 members"]
    assert eights[0] == eights[1] == settings(definitions.PBT)


def test_every_study_has_its_reference_in_every_panel_and_settings_the_engine_takes():
    winner = schedule.Schedule(
        ((0, {"learning_rate": 0.01, "entropy_cost": 0.02, "unroll_length": 3.6}),)
    )
    for described in definitions.STUDIES.values():
        for panel in described.panels:
            names = [arm.name for arm in described.arms if arm.panel == panel]
            assert described.reference in names
            assert len(set(names)) == len(names)
        for arm in described.arms:
            values = settings(arm, seed=3, winner=winner)
            assert values["seed"] == 3
            fixed = values["space"]["dimensions"]
            if arm.setting == "final":
                assert fixed["unroll_length"] == {"kind": "Constant", "value": 4.0}
            if arm.setting == "schedule":
                assert values["task_config"]["schedule"] == winner.to_json()


@pytest.mark.parametrize(("env_id", "agent"), [("CartPole-v1", "ppo"), ("Pong", "feudal")])
def test_last_values_are_held_as_the_winner_used_them(env_id, agent):
    base = definitions.base_settings(env_id, agent)
    dimensions = base.run_config().space.dimensions
    last = {name: dimensions[name].sample(np.random.default_rng(3)) for name in dimensions}
    last["unroll_length"] = 63.5  # beyond the bounds of other agents
    ready = dataclasses.replace(base, explore_at="ready").run_config()
    followed = schedule.Schedule(((0, last),))
    frozen = schedules.freeze(ready, followed, 2)
    held = {name: dimension.value for name, dimension in frozen.space.dimensions.items()}
    whole = {name: math.floor(last[name] + 0.5) for name in last if name in schedule.WHOLE}
    assert held == {**last, **whole}
    assert frozen.space.adapt == ()
    for alone in (frozen, schedules.follow(ready, followed, 2)):
        assert alone.explore_at == "exploit", "else every ready member would publish a version"


@pytest.mark.parametrize("env_id", ["Catch", "CartPole-v1", "Pong"])
def test_any_environment_has_settings(env_id):
    base = definitions.base_settings(env_id, changes={"population": 3, "seed": None})
    assert base.population == 3
    assert base.learner_config().clip_rewards == (env_id == "Pong")
    assert base.learner_config().reward_scale == (0.05 if env_id == "CartPole-v1" else 1.0)
    assert ((env_id, "a3c") in definitions.TUNED) == (env_id == "Pong")
    definitions.arm_config(definitions.PBT, base, 0, None, None)


@pytest.mark.parametrize("agent", ["a3c", "ppo"])
def test_the_id_of_a_game_says_its_protocol(agent):
    for env_id, protocol in (("Pong", "a3c2016"), ("ALE/Pong-v5", "ale-v5")):
        learned = definitions.base_settings(env_id, agent).learner_config()
        assert (learned.env_id, learned.preset) == ("Pong", protocol)


def test_translation_has_settings_and_falls_as_told():
    base = definitions.base_settings("translation", changes={"population": 3})
    assert (base.name(), base.population, definitions.agent_of(base)) == ("translation", 3, None)
    decay = ("learning_rate=4", "attention_dropout=0.1", "relu_dropout=0.1", "residual_dropout=0.1")
    (arm,) = (one for one in definitions.STUDIES["random-search"].arms if one.setting == "decay")
    values = definitions.arm_config(arm, base, 0, None, None, decay).to_json()
    followed = schedule.Schedule.from_json(values["task_config"]["schedule"])
    steps = base.total_steps
    for at in range(0, steps, steps // 20):  # the middle of each of 20 rows lies on the line
        expected = 4 * (1 - (at + steps / 40) / steps)
        assert followed.at(at)["learning_rate"] == pytest.approx(expected)
        assert followed.at(at)["relu_dropout"] == 0.1
    assert (values["population"], values["exploit"]) == (3, "none")


def test_names_of_committed_runs_follow_from_the_definitions():
    """Run directories of before must be found again: a changed default would train them anew."""
    study = "random-search"
    with (RESULTS / study / "scores.csv").open() as file:
        names = {(row["arm"], int(row["seed"])): row["run"] for row in csv.DictReader(file)}
    asked = plan.Plan(
        definitions.base_settings(definitions.DEFAULT_ENV),
        definitions.TUNED[definitions.DEFAULT_ENV, "a3c"],
        Path(),
        workers=1,
    )
    found = {
        (arm.name, seed): plan.directory_name(asked.run_config(arm, seed, None))
        for arm in asked.arms_of(study)
        for seed in range(10)
        if not arm.needs_winner
    }
    assert len(found) == 30
    assert found == names


def test_a_study_runs_resumes_repeats_and_shares_its_runs(command, here, monkeypatch):
    first = command(study, "copy", *TINY)
    assert first.code is None, first
    assert "nothing, but explore, seed 1" in first.out
    results = here / "results/runs/study-copy-Catch"
    readme = (results / "README.md").read_text()
    assert "| weights only | 2 |" in readme
    for figure in ("scores.png", "curves.png", "schedules.png"):
        assert (results / figure).stat().st_size > 10_000
    runs = sorted((here / "runs/Catch").iterdir())
    assert len(runs) == 10
    described = json.loads((results / "study.json").read_text())
    assert sum(described["run_commits"].values()) == 10
    trained = plan.train
    monkeypatch.setattr(plan, "train", lambda run_dir, *_: pytest.fail(f"trains {run_dir}"))
    again = command(study, "copy", *TINY)
    assert again.code is None
    unchanged = r"\(\d+ s, |command: .*"
    told = (results / "README.md").read_text()
    assert re.sub(unchanged, "", told) == re.sub(unchanged, "", readme)
    # The exploit study has two arms that the copy study has, too; a run repeats exactly.
    monkeypatch.setattr(plan, "train", trained)
    shared = next(run for run in runs if "t-test-copy-both" in run.name)
    before = outcome.read(shared)
    for path in sorted(shared.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    shared.rmdir()
    made = []
    monkeypatch.setattr(plan, "train", lambda d, *more: (made.append(d.name), trained(d, *more)))
    assert command(study, "exploit", *TINY, "--seeds", "1").code is None
    assert len(made) == 3, made
    assert shared.name in made
    repeated = outcome.read(shared)
    assert dataclasses.replace(repeated, seconds=0) == dataclasses.replace(before, seconds=0)


@pytest.mark.slow  # what another process trains is waited for: see below
def test_two_terminals_share_the_runs_and_train_none_together(here):
    terminals = [
        start(here, "-m", "experiments.study", "copy", *TINY, "--seeds", "1", "--out", name)
        for name in ("one", "two")
    ]
    try:
        printed = [terminal.communicate(timeout=120)[0] for terminal in terminals]
    finally:
        for terminal in terminals:
            terminal.kill()
    assert [terminal.returncode for terminal in terminals] == [0, 0], printed
    runs = list((here / "runs/Catch").iterdir())
    assert len(runs) == 5
    starts = [start for run in runs for start in provenance.read(run)]
    assert len(starts) == 5, "each run was begun once"
    assert (here / "one/scores.csv").read_text() == (here / "two/scores.csv").read_text()


def test_what_another_process_trains_is_left_to_the_end_and_waited_for(command, here):
    assert command(study, "copy", *TINY, "--seeds", "1").code is None
    pbt = next(run for run in (here / "runs/Catch").iterdir() if "t-test-copy-both" in run.name)
    (pbt / "outcome.json").unlink()
    again = None
    try:
        with launch.alone(pbt / plan.LOCK_NAME) as alone:
            assert alone
            again = start(here, "-m", "experiments.study", "copy", *TINY, "--seeds", "1")
            said = [again.stdout.readline() for _ in range(5)]
            assert said[0] == "PBT, seed 0: another process trains it\n"
            assert said[4].startswith("random search, seed 0: ")
        rest, _ = again.communicate(timeout=60)
        assert rest.startswith("PBT, seed 0: ")
        assert again.returncode == 0
    finally:
        if again is not None:
            again.kill()
    assert outcome.read(pbt) is not None


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({"out": None}, ["--out out is a file"]),
        ({"out/study.json": '{"study": "copy"}'}, ["study.json is damaged", "without agent"]),
        ({"out/study.json": "{"}, ["study.json is damaged", "restore it"]),
        ({"runs": None}, ["--run-dir runs is a file"]),
    ],
)
def test_where_results_cannot_go_is_said_before_the_training(command, here, there, words):
    for name, text in there.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text or "")
    result = command(study, "copy", *TINY, "--out", "out")
    assert result.code == 2
    assert all(word in result.err for word in words), result.err
    assert not Path("runs").is_dir()


def test_another_studys_results_are_not_replaced(command, here):
    assert command(study, "copy", *TINY, "--seeds", "1", "--out", "out").code is None
    before = Path("out/README.md").read_text()
    result = command(study, "exploit", *TINY, "--seeds", "1", "--out", "out")
    assert result.code == 2
    assert "--out out has the results of copy in Catch: name another directory" in result.err
    assert Path("out/README.md").read_text() == before


def test_the_same_world_by_another_name_may_go_on(command, here):
    committed = Path(study.__file__).parents[1] / "results/random-search-pong/study.json"
    Path("out").mkdir()
    Path("out/study.json").write_text(committed.read_text())
    flags = ("--world", "ALE/Pong-v5", "--population", "2", "--num-envs", "4", "--dry-run")
    assert command(study, "random-search", *flags, "--out", "out").code is None
    assert "out has the results of" in command(study, "copy", *flags, "--out", "out").err


def test_a_run_too_short_for_a_score_is_named(command, here):
    short = ("--total-steps", "40", "--report-interval", "40", "--ready-interval", "40")
    result = command(study, "copy", *TINY, *short)
    assert result.code == 2
    assert "seed-0: no member has a score yet, which takes 10" in result.err
    assert "--total-steps" in result.err


def test_arms_begin_alike_and_replays_follow_the_winner(command, here):
    assert command(study, "schedule", *TINY, "--seeds", "1").code is None
    assert command(study, "random-search", *TINY, "--seeds", "1").code is None
    first_draws, replayed = set(), []
    for run in (here / "runs/Catch").iterdir():
        with store.Store.open(run) as opened:
            if opened.config.space.adapt:
                first_draws.add(
                    tuple(str(v.hyperparameters) for v in opened.versions() if v.kind == "initial")
                )
            replayed += [opened.config.task_config.get("schedule")]
            assert decide.task_seed(opened.config.seed, 0, 0) == decide.task_seed(0, 0, 0)
        if "copy-both" in run.name:
            winner = outcome.read(run).schedule
    assert len(first_draws) == 1
    assert [found for found in replayed if found] == [list(winner)]


def test_a_dry_run_counts_and_creates_nothing(command, here):
    done = command(study, "all", *TINY, "--dry-run")
    assert done.code is None, done
    # 18 runs of 2 members; 4, 8, 16 and 32 at equal steps; the same at equal totals, of which the
    # last two are rounded to the 4 worlds.
    members = 18 * 2 + 2 * (4 + 8 + 16 + 32)
    steps = 18 * 2 * 240 + (4 + 8 + 16 + 32) * 240 + 2 * 2 * 240 + 16 * 28 + 32 * 12
    assert f"52 runs, {2 * members} member runs, {2 * steps:,} agent steps" in done.out
    assert "0 member runs are done" in done.out
    assert "a few seconds of training just now" in done.out
    assert list(here.iterdir()) == []
    assert command(study, "ready", *TINY, "--seeds", "1").code is None
    done = command(study, "random-search", *TINY, "--dry-run")
    assert "6 runs, 12 member runs, 2,880 agent steps; 2 member runs are done" in done.out
    assert "left: 2,400 agent steps" in done.out
    assert "from the seconds of finished runs" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0"), "--seeds 0: use 1 or more"),
        (("--workers", "0"), "--workers 0: use 1 or more"),
        (("--world", "Pongg"), "Pong"),
        (("--agent", "a4c"), "--agent a4c: use one of a3c"),
        (("--world", "translation", "--agent", "ppo"), "--agent ppo: translation has no agents"),
        (("--world", "translation"), "--num-envs: translation has no such setting"),
        (("--total-steps", "241"), "--total-steps 241 is no multiple of 4"),
        (("--tuned", "learning_rate=fast"), "--tuned learning_rate=fast"),
        (("--tuned", "learning_rate=-1"), "--tuned learning_rate=-1: use a number above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_created(command, here, arguments, message):
    result = command(study, "random-search", *TINY, *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("more", [(), ("--tuned",)], ids=["no setting known", "not wanted"])
def test_without_a_tuned_setting_that_arm_is_left_out(command, here, more):
    arguments = [argument for argument in TINY if "=" not in argument and argument != "--tuned"]
    if more:
        arguments[1] = "Pong"  # which has one
    result = command(study, "random-search", *arguments, "--dry-run", *more)
    assert "no hand-tuned setting" in result.out
    assert "4 runs" in result.out
