"""What is kept of a finished run: fresh episodes, its curve, its decisions."""

import collections
import json
from pathlib import Path

import numpy as np
import pytest

import projection_run as runs
from experiments import gym
from experiments.analysis import comparison, curves, history, outcome, scores
from experiments.members import evaluation
from experiments.studies import conclude
from pbt import lineage, records, store

TINY = (
    *("--env", "Catch", "--agent", "a3c", "--population", "2", "--workers", "1", "--num-envs", "4"),
    *("--total-steps", "800", "--report-interval", "400", "--ready-interval", "400"),
)


def slow_curve(versions, interval, total_steps):
    """At each interval, the last score that each member had earned by then, one by one."""
    rows = []
    for steps in [*range(interval, total_steps, interval), total_steps]:
        last = {}
        for version in sorted(versions, key=lambda v: (v.member, v.version)):
            if version.score is not None and version.agent_steps < steps + interval / 2:
                last[version.member] = version.score
        known = list(last.values())
        rows.append((steps, max(known), float(np.median(known))) if known else (steps, None, None))
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_has_what_every_member_had_earned_by_then(tmp_path, seed):
    population = runs.Population(tmp_path, runs.configuration(population=5, min_episodes=30), seed)
    for turns in (10, 12):
        population.train(turns)
        population.restore()
    population.train(1000)
    versions = population.store.versions()
    assert {v.kind for v in versions} == {"initial", "slice", "exploit", "restore"}
    for interval in (runs.INTERVAL, runs.INTERVAL - 1, 777, 10**6):
        found = curves.best_and_median(versions, interval, 10 * runs.INTERVAL)
        assert found == slow_curve(versions, interval, 10 * runs.INTERVAL)
        json.dumps(found, allow_nan=False)
    assert any(version.score is None for version in versions if version.kind == "slice")


def test_the_curve_before_anybody_has_a_score():
    versions = [records.Version(number, 0, "initial", 0, None, {}) for number in range(3)]
    unknown = [(steps, None, None) for steps in (100, 200, 250)]
    assert curves.best_and_median(versions, 100, 250) == unknown


def test_the_fresh_episodes_of_a_study_are_found_by_comparisons(command, here, one_process):
    """Also where somebody saved others before: what was written first stays."""
    for name, seed in (("run", "3"), ("other", "4")):
        assert command(gym, *TINY, "--seed", seed, "--run-dir", name).code == 0
    (path,) = Path("run/report").glob("evaluation-*")
    (kept,) = Path("other/report").glob("evaluation-*")
    path.unlink()
    before = kept.read_text()
    concluded = [conclude.conclude(Path(name)) for name in ("run", "other")]
    assert kept.read_text() == before
    found = comparison.read([Path("run"), Path("other")])
    assert found[0].fresh == scores.Score(
        concluded[0].score,
        True,
        outcome.EPISODES,
        tuple(json.loads(path.read_text())["interval_95"]),
        protocol=concluded[0].protocol,
    )
    assert f"evaluation seed {conclude.EVALUATION_SEED + 3}" in found[0].fresh.protocol
    assert found[1].fresh.protocol.endswith("evaluation seed 0")
    assert [scores.training_score(run.history).mean for run in found] == [
        one.training_score for one in concluded
    ]
    # Whoever launches it again finds it evaluated, and its report has that score.
    written = path.read_text()
    again = command(gym, *TINY, "--seed", "3", "--run-dir", "run")
    assert again.code == 0, again
    assert "fresh episodes" not in again.out
    assert path.read_text() == written
    assert list(Path("run/report").glob("evaluation-*")) == [path]


def test_an_outcome_reads_back_and_counts_its_run(command, here, one_process):
    assert command(gym, *TINY, "--run-dir", "run").code == 0
    assert outcome.read(Path("run")) is None
    made = conclude.conclude(Path("run"))
    assert outcome.read(Path("run")) == made
    with store.Store.open("run") as opened:
        seen = history.History.read(opened, "run")
        best = evaluation.best_member(opened)
    assert made.member == best.id
    assert made.training_score == seen.tree.scores[seen.tree.newest(best.id)]
    assert made.decisions == collections.Counter(event.kind for event in seen.events)
    assert made.agent_steps == 1600
    assert [steps for steps, _, _ in made.curve] == [400, 800]
    rows = lineage.schedule(seen.lineage)
    assert [row["agent_steps"] for row in made.schedule] == [row.agent_steps for row in rows]
