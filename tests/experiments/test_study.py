import dataclasses

import numpy as np
import pytest
import scipy.stats

from experiments import gym, study


def test_comparison_against_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 1, 10).round(1), rng.normal(0, 1, 10).round(1)  # rounded: with ties
    result = study.compare(x, y)
    assert result.mean == pytest.approx(np.mean(x - y))
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert result.probability_of_improvement == pytest.approx(u / 100)
    # The percentile interval of a mean is close to the normal one at n = 10.
    standard_error = np.std(x - y, ddof=1) / np.sqrt(10)
    assert result.interval[0] == pytest.approx(result.mean - 1.96 * standard_error, abs=0.3)
    assert result.interval[1] == pytest.approx(result.mean + 1.96 * standard_error, abs=0.3)
    low, high = result.probability_interval
    assert low < result.probability_of_improvement < high


def test_comparison_of_equals_is_undecided():
    result = study.compare([1.0, 2.0, 3.0], [3.0, 1.0, 2.0])
    assert result.mean == 0
    assert result.probability_of_improvement == 0.5
    assert result.interval[0] < 0 < result.interval[1]


def test_arms_differ_in_one_thing_and_begin_alike():
    pbt, random_search = study.ARMS["pbt"], study.ARMS["random-search"]
    assert dataclasses.replace(random_search, exploit="t-test") == pbt


def test_a_study_runs_resumes_and_repeats(tmp_path, monkeypatch, capsys):
    tiny = gym.GymConfig(
        env="Catch",
        population=2,
        num_envs=4,
        total_steps=800,
        report_interval=400,
        ready_interval=400,
    )
    arms = {"pbt": tiny, "random-search": dataclasses.replace(tiny, exploit="none")}
    monkeypatch.setattr(study, "ARMS", arms)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["study", "random-search", "--seeds", "2", "--run-dir", str(tmp_path / "a b")]
    monkeypatch.setattr("sys.argv", command)
    study.main()
    first = (tmp_path / "a b/study-random-search/scores.csv").read_text()
    assert "| pbt | 1 |" in capsys.readouterr().out
    study.main()  # all runs are there: nothing is trained
    assert (tmp_path / "a b/study-random-search/scores.csv").read_text() == first
    assert (tmp_path / "a b/study-random-search/comparison.png").stat().st_size > 10_000
    row = study.run_arm("pbt", 1, tmp_path / "again", workers=1)
    assert ",".join(str(value) for value in dataclasses.astuple(row)) in first


def test_too_few_seeds_are_refused(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["study", "random-search", "--seeds", "1"])
    with pytest.raises(SystemExit) as caught:
        study.main()
    assert caught.value.code == 2
    assert "--seeds 1: use 2 or more" in capsys.readouterr().err
