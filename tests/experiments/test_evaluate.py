"""What a run reports: fresh episodes, their statistics, and their pictures."""

import json
import re
from pathlib import Path

import imageio.v2
import numpy as np
import pytest

from experiments import evaluate, gym
from experiments.analysis import history, scores, wording
from experiments.members import evaluation
from experiments.pages import summary
from pbt import checkpoint, store

TINY = (
    *("--agent", "a3c", "--population", "2", "--workers", "1", "--num-envs", "4"),
    *("--total-steps", "1200", "--report-interval", "400", "--ready-interval", "800"),
    *("--run-dir", "run"),
)


def made(returns):
    returns = tuple(map(float, returns))
    return scores.Evaluation(1, 2, 3, returns, (1,) * len(returns), "protocol")


@pytest.fixture
def run(train):
    """A finished run in an environment, open; returns its store."""
    opened = []

    def call(env):
        train(gym, "--env", env, *TINY)
        opened.append(store.Store.open("run"))
        return opened[-1]

    yield call
    for one in opened:
        one.close()


def test_interval_is_the_percentile_bootstrap_of_the_mean():
    returns = np.random.default_rng(1).exponential(5, 40)
    draws = np.random.default_rng(2).choice(returns, (20_000, 40)).mean(axis=1)
    expected = np.percentile(draws, [2.5, 97.5])
    assert made(returns).interval() == pytest.approx(expected, rel=0.03)
    assert made(returns).interval() == made(returns).interval()
    assert made(returns).mean == pytest.approx(returns.mean())


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        low, high = made(rng.normal(7, 2, 30)).interval()
        covered += low <= 7 <= high
    assert 86 <= covered <= 100  # 95 %, less a little for 30 samples, 3 standard errors


@pytest.mark.parametrize(("returns", "interval"), [([3.0], None), ([2.0, 2.0, 2.0], (2.0, 2.0))])
def test_equal_returns_have_an_interval_of_no_width_and_one_return_has_none(returns, interval):
    assert made(returns).interval() == interval
    json.dumps(made(returns).to_json(), allow_nan=False)


def test_short_episodes_are_not_favoured(run):
    run_store = run("small_envs:Length-v0")
    member = run_store.member(0)
    returns = []
    for seed in range(5):
        played = evaluation.evaluate(run_store, Path("run"), member, 32, seed)
        assert len(played.returns) == 32
        assert played.returns == tuple(map(float, played.lengths))
        returns += played.returns
    # 1 or 21 with equal chance: mean 11, standard error 10 / sqrt(160). Of the first 32 to finish
    # in 32 parallel environments nearly all would be 1.
    assert abs(np.mean(returns) - 11) < 3 * 10 / np.sqrt(160)


def test_every_environment_plays_as_many_episodes(run):
    run_store = run("small_envs:Length-v0")
    played = evaluation.evaluate(run_store, Path("run"), run_store.member(0), 70, seed=0)
    assert len(played.returns) == 96
    assert "3 episodes in each of 32 environments" in played.protocol


def test_the_same_seed_plays_the_same_episodes(run):
    run_store = run("Catch")
    member = run_store.member(1)
    first, again, other = (
        evaluation.evaluate(run_store, Path("run"), member, 40, seed) for seed in (7, 7, 8)
    )
    assert first == again
    assert first.returns != other.returns
    assert len(first.returns) == 64  # 2 in each of 32


def test_the_best_member_is_evaluated_and_its_protocol_printed(run, command):
    run_store = run("Catch")
    best = evaluation.best_member(run_store)
    assert best.score == max(member.score for member in run_store.members())
    result = command(evaluate, "run", "--episodes", "12")
    assert result.code is None
    assert re.match(rf"member {best.id}, version {best.version}, 1,200 agent steps: ", result.out)
    assert "mean of 12 fresh episodes; 95 % interval" in result.out
    assert "protocol: Catch; actions sampled from the policy; 1 episode in each" in result.out
    assert "evaluation seed 0" in result.out
    certain = command(evaluate, "run", "--episodes", "12", "--deterministic")
    assert "protocol: Catch; most likely actions; 1 episode in each" in certain.out
    other = command(evaluate, "run", "--episodes", "12", "--member", 1 - best.id)
    assert other.out.startswith(f"member {1 - best.id}, ")


def test_a_finished_run_is_scored_by_fresh_episodes_once(run):
    run_store = run("Catch")
    best = evaluation.best_member(run_store)
    (path,) = Path("run/report").glob("evaluation-*")
    written = json.loads(path.read_text())
    fresh = evaluation.evaluate(run_store, Path("run"), best, 30, seed=0)
    assert written["returns"] == list(fresh.returns)
    assert written["mean"] == pytest.approx(fresh.mean)
    text = summary.summary(history.History.read(run_store, "run"), Path("run"))
    assert f"- score {wording.score(fresh.mean)}: mean of 30 fresh episodes" in text


def test_a_score_is_saved_once(run, command):
    run_store = run("Catch")
    best = evaluation.best_member(run_store)
    other = 1 - best.id
    saved = Path(f"run/report/evaluation-{other:02d}-{run_store.member(other).version}.json")
    assert command(evaluate, "run", "--member", other, "--episodes", "5").code is None
    assert not saved.exists()
    result = command(evaluate, "run", "--member", other, "--episodes", "5", "--save")
    assert result.code is None, result
    written = saved.read_text()
    assert len(json.loads(written)["returns"]) == 5
    again = command(evaluate, "run", "--member", other, "--episodes", "6", "--save")
    assert again.code == 2
    assert "exists" in again.err
    assert len(again.err.splitlines()) == 1
    assert saved.read_text() == written


def test_a_member_without_checkpoint_is_refused(here, run):
    run_store = run("Catch")
    untrained = run_store.member(0).__class__(0, 0, 0, run_store.member(0).hyperparameters)
    with pytest.raises(ValueError, match="no checkpoint yet"):
        evaluation.evaluate(run_store, here / "run", untrained, 3, seed=0)


def test_a_checkpoint_of_another_version_is_refused(here, run):
    run_store = run("Catch")
    member = run_store.member(0)
    other = member.__class__(
        1, member.version, 1200, member.hyperparameters, checkpoint=member.checkpoint
    )
    with pytest.raises(checkpoint.CheckpointError):
        evaluation.evaluate(run_store, here / "run", other, 3, seed=0)


def test_a_video_shows_the_episode(run, command):
    run("small_envs:Picture-v0")
    result = command(
        evaluate, "run", "--trust", "--member", "0", "--episodes", "2", "--video", "picture 1.mp4"
    )
    assert result.code is None, result
    assert "picture 1.mp4: one episode, return 20" in result.out
    with imageio.v2.get_reader("picture 1.mp4") as reader:
        frames = list(reader.iter_data())
    assert len(frames) == 20
    assert frames[0].shape == (96, 128, 3)
    red = [float(frame[:, :, 0].mean()) for frame in frames]
    assert red == pytest.approx([12 * step for step in range(20)], abs=8)  # lossy
    assert max(float(frame[:, :, 1:].mean()) for frame in frames) < 20
