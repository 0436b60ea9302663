"""The benchmark measures what it says. Speeds themselves are not tested."""

import json
import math

import numpy as np
import pytest

from envs import make
from experiments import throughput


def test_still_environments_have_the_real_ones_shapes():
    real, still = make.make_vec("Catch", 3), throughput.StillVectorEnv("Catch", 3)
    obs, _ = real.reset(seed=0)
    assert still.reset()[0].shape == obs.shape
    expected, got = real.step(np.zeros(3, dtype=np.int64)), still.step(None)
    for index in range(4):
        assert got[index].shape == expected[index].shape
        assert got[index].dtype == expected[index].dtype
    assert got[4].keys() == expected[4].keys()


def follow(figures):
    """The ratios follow from what was measured."""
    assert figures["limit"] == pytest.approx(
        1 / (1 / figures["emulation"] + 1 / figures["network"])
    )
    assert figures["ratio_to_limit"] == pytest.approx(figures["population"] / figures["limit"])
    for name in ("emulation", "network", "population"):
        assert figures[name] > 0
    assert 0 < figures["pbt_cost"] < math.inf  # in a short window it may exceed the window
    assert "ratio_to_limit" in throughput.report(figures)


def test_all_are_measured_and_the_ratios_follow(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(throughput, "SETTLE_S", 0.1)
    small = {"game": "Catch", "num_envs": 4, "population": 2, "workers": 1}
    arguments = throughput.Arguments(quick=True, windows=1, window_s=0.3, **small)
    figures = throughput.measure(arguments, tmp_path)
    follow(figures)
    assert figures["ratio_of_populations"] is None


@pytest.mark.slow
def test_the_command_measures_a_large_population_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = "throughput --game Catch --num-envs 4 --population 2 --large-population 3 --workers 1"
    file = tmp_path / "out.json"
    monkeypatch.setattr(
        "sys.argv", [*command.split(), "--windows", "1", "--window-s", "0.5", "--json", str(file)]
    )
    throughput.main()
    figures = json.loads(file.read_text())
    follow(figures)
    assert figures["population_3"] > 0
    assert "ratio_to_limit" in capsys.readouterr().out


def test_an_unknown_game_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["throughput", "--game", "Pnog"])
    with pytest.raises(SystemExit) as caught:
        throughput.main()
    assert caught.value.code == 2
    assert "Pong" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--workers 0", "--workers 0: use 1 or more, or leave it out"),
        ("--population 0", "--population 0: use 1 or more"),
        ("--windows -1", "--windows -1: use 1 or more"),
        ("--window-s nan", "--window-s nan: use a number above 0"),
        ("--json nowhere/out.json", "--json nowhere/out.json: name a file in a directory that"),
        ("--json .", "--json .: name a file in a directory that exists"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_is(refused, flags, said):
    assert said in refused(throughput, *flags.split())
