import contextlib
import csv
import io
import shutil
import signal
import statistics
import subprocess
import sys

import matplotlib.image
import pytest

from experiments import toy
from pbt import store

PBT, EXPLORE_ONLY, EXPLOIT_ONLY, GRID_SEARCH = toy.PANELS


def trained(settings, panel):
    assert toy.train_panel(settings, panel)
    return toy.read_panel(settings.run_dir, panel)


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["toy", *map(str, arguments)])
    toy.main()


def files(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory of a run with default settings, which no test changes, and what was printed."""
    run_dir = tmp_path_factory.mktemp("made") / "toy with spaces"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        run_main(patch, "--run-dir", run_dir)
    return run_dir, printed.getvalue()


@pytest.mark.parametrize("seeds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_pbt_reaches_the_top_in_the_median(seeds, made, tmp_path):
    final = [toy.final_q(toy.read_panel(made[0], PBT), PBT)]  # of seed 0
    for seed in range(1, seeds):
        settings = toy.ToyConfig(run_dir=tmp_path / str(seed), seed=seed)
        final.append(toy.final_q(trained(settings, PBT), PBT))
    assert statistics.median(final) > 1.15
    assert max(final) <= toy.CEILING


def test_grid_search_is_stuck(made):
    rows = toy.read_panel(made[0], GRID_SEARCH)
    # In closed form: what is seen shrinks by 1 - 0.02 a step, what is not stays.
    stuck = 1.2 - 0.9**2 - (0.9 * 0.98**200) ** 2
    assert toy.final_q(rows, GRID_SEARCH) == pytest.approx(stuck, rel=1e-12)
    assert stuck == pytest.approx(0.39, abs=5e-4)
    assert {row.kind for row in rows} == {"initial", "slice"}
    for row in rows:
        seen = 0.9 * 0.98**row.agent_steps
        expected = (seen, 0.9) if row.member == 0 else (0.9, seen)
        assert (row.theta_0, row.theta_1) == pytest.approx(expected, rel=1e-12)


def test_exploit_only_hangs_on_the_tie(made, tmp_path):
    rows = toy.read_panel(made[0], EXPLOIT_ONLY)
    assert toy.final_q(rows, EXPLOIT_ONLY) > 1.1
    assert {(row.member, row.h_0, row.h_1) for row in rows} == {(0, 1, 0), (1, 0, 1)}
    # A strict rule copies only while one is steps ahead of the other: at equal steps they tie.
    strict = toy.ToyConfig(run_dir=tmp_path / "strict", exploit="binary-tournament")
    assert toy.final_q(trained(strict, EXPLOIT_ONLY), EXPLOIT_ONLY) < 0.8
    both = toy.ToyConfig(run_dir=tmp_path / "both", copy="both")
    assert toy.final_q(trained(both, EXPLOIT_ONLY), EXPLOIT_ONLY) < 0.39


def test_the_t_test_finds_its_way_too(tmp_path):
    settings = toy.ToyConfig(run_dir=tmp_path, exploit="t-test", significance=0.2)
    rows = trained(settings, PBT)
    assert toy.final_q(rows, PBT) > 1.0
    with store.Store.open(tmp_path / "pbt") as opened:
        decided = [event.details for event in opened.events() if event.kind == "exploit"]
    assert decided
    assert all(details["p"] < 0.2 and details["t"] > 0 for details in decided)


def test_the_command_draws_the_figure_and_the_same_again_redraws_it(
    made, tmp_path, monkeypatch, capsys
):
    run_dir = shutil.copytree(made[0], tmp_path / "toy with spaces")
    printed = made[1]
    assert "Grid search    0.390" in printed
    with (run_dir / "report" / "toy.csv").open() as file:
        table = list(csv.DictReader(file))
    for panel in toy.PANELS:
        rows = [row for row in table if row["panel"] == panel.name]
        last = {row["member"]: row for row in rows}
        assert {row["agent_steps"] for row in last.values()} == {"200"}
        assert f"{panel.title:<13} {max(float(row['q']) for row in last.values()):6.3f}" in printed
        kinds = {row["kind"] for row in rows}
        assert ("exploit" in kinds) == panel.exploits
        assert ("explore" in kinds) == panel.explores
        for row in rows:
            theta_0, theta_1 = float(row["theta_0"]), float(row["theta_1"])
            assert float(row["q"]) == pytest.approx(1.2 - theta_0**2 - theta_1**2)
            assert 0 <= float(row["h_0"]) <= 1
            assert 0 <= float(row["h_1"]) <= 1
    picture = matplotlib.image.imread(run_dir / "report" / "toy.png")
    assert picture.shape[0] > 800
    assert picture.shape[1] > 1_600
    assert picture.std() > 0.05  # not blank

    before = files(run_dir)
    (run_dir / "report" / "toy.csv").unlink()
    run_main(monkeypatch, "--run-dir", run_dir)
    assert "finished already" in capsys.readouterr().out
    after = files(run_dir)
    assert {path: content for path, content in after.items() if path.suffix != ".png"} == {
        path: content for path, content in before.items() if path.suffix != ".png"
    }

    with pytest.raises(SystemExit) as exited:
        run_main(monkeypatch, "--run-dir", run_dir, "--seed", 3)
    assert exited.value.code == 2
    assert "seed: 0 -> 3" in capsys.readouterr().err
    assert files(run_dir) == after


KILLED = """
import os, signal, sys
from experiments import toy
from pbt import worker

panel, point, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
reached = 0

def probe(name):
    global reached
    reached += name == point
    if reached == times:
        os.kill(os.getpid(), signal.SIGKILL)

run = worker.run
toy.worker.run = lambda opened, directory, **options: run(
    opened, directory, probe=probe if directory.name == panel else lambda name: None, **options
)
sys.argv = ["toy", *sys.argv[4:]]
toy.main()
"""


def test_a_killed_toy_goes_on(tmp_path):
    """SIGKILL in the middle of two panels; what is then read must replay to the Q recorded."""
    killed = toy.ToyConfig(run_dir=tmp_path / "killed", steps=100)
    command = [sys.executable, "-c", KILLED]
    flags = ["--steps=100", f"--run-dir={killed.run_dir}"]
    for panel, point in [(PBT, "explored"), (GRID_SEARCH, "published")]:
        process = subprocess.run([*command, panel.name, point, "20", *flags], check=False)
        assert process.returncode == -signal.SIGKILL
        assert toy.train_panel(killed, panel)
        rows = toy.read_panel(killed.run_dir, panel)
        assert {row.member: row.agent_steps for row in rows} == {0: 100, 1: 100}
    # Where nobody decides anything, as if it had not been killed.
    whole = toy.ToyConfig(run_dir=tmp_path / "whole", steps=100)
    assert rows == trained(whole, GRID_SEARCH)


def test_a_table_that_does_not_fit_the_record_is_refused(tmp_path, monkeypatch):
    trained(toy.ToyConfig(run_dir=tmp_path, steps=8), PBT)
    monkeypatch.setattr(toy, "START", (0.9, 0.9000001))
    with pytest.raises(ValueError, match="was recorded"):
        toy.read_panel(tmp_path, PBT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", 0), "total_steps"),
        (("--significance", 2), "significance"),
        (("--standard-deviation", -1), "standard_deviation"),
        (("--seed", -1), "seed"),
        (("--exploit", "tournament"), "exploit"),
        (("--sead", 1), "sead"),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_created(
    tmp_path, monkeypatch, capsys, arguments, message
):
    with pytest.raises(SystemExit) as exited:
        run_main(monkeypatch, "--run-dir", tmp_path / "new", *arguments)
    assert exited.value.code == 2
    output = capsys.readouterr()
    assert message in output.err + output.out
    assert not (tmp_path / "new").exists()


def test_a_directory_that_is_something_else_is_refused(tmp_path, monkeypatch, capsys):
    trained(toy.ToyConfig(run_dir=tmp_path, steps=4), PBT)
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign" / "pbt").mkdir(parents=True)
    (tmp_path / "foreign" / "pbt" / store.FILE_NAME).write_text("not a database")
    before = files(tmp_path)
    for name in ("pbt", "file", "foreign"):
        with pytest.raises(SystemExit) as exited:
            run_main(monkeypatch, "--run-dir", tmp_path / name)
        assert exited.value.code == 2
        assert str(tmp_path / name) in capsys.readouterr().err
    assert files(tmp_path) == before


def test_importing_the_toy_loads_neither_torch_nor_a_global_figure_backend():
    unwanted = ("torch", "gymnasium", "matplotlib.pyplot")
    code = f"import sys; from experiments import toy; print(*set({unwanted}) & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert output.stdout.strip() == b""
