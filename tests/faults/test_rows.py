"""Single bits of the database flip: every command works, or refuses in one line."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import evaluate, export, gym, launch, report
from pbt import store, worker

SMALL = (
    *("--env", "Catch", "--population", "3", "--workers", "1", "--num-envs", "4"),
    *("--total-steps", "1200", "--report-interval", "400", "--ready-interval", "400"),
    *("--run-dir", "run"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished and evaluated run."""
    here = tmp_path_factory.mktemp("finished")

    def work(run_dir, workers, **_):
        with store.Store.open(run_dir, durable=False) as run_store:
            return worker.run(run_store, Path(run_dir), durable=False).exit_code

    with pytest.MonkeyPatch.context() as patch:  # no process of its own
        patch.chdir(here)
        patch.setattr(launch.cluster.local, "run", work)
        patch.setattr(sys, "argv", ["gym", *SMALL])
        with pytest.raises(SystemExit, match=r"^0$"):
            gym.main()
    return here / "run"


def flip(path, seed):
    """Flip one bit among the bytes that are not 0, as unused pages are."""
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    place = int(rng.choice(np.flatnonzero(np.frombuffer(bytes(data), np.uint8))))
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(data))


def check(finished, here, seed, modules, monkeypatch, capsys):
    shutil.copytree(finished, here / "run")
    flip(here / "run" / store.FILE_NAME, seed)
    monkeypatch.chdir(here)
    for module, *arguments in modules:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        capsys.readouterr()
        code = None
        try:
            module.main()
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err, (seed, module.__name__, out, err)
        if code not in (None, 0):
            lines = [line for line in err.splitlines() if line]
            assert code in (1, 2, 3), (seed, module.__name__, out, err)
            assert len(lines) <= 2, (seed, module.__name__, out, err)


QUICK = ((export, "run"), (evaluate, "run", "--episodes", "1", "--member", "0"))
SLOW = ((report, "run"), (evaluate, "run"), (gym, *SMALL))


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_ends_no_command_with_a_traceback(
    finished, tmp_path, seed, monkeypatch, capsys
):
    modules = QUICK if seed % 20 else (*QUICK, *SLOW)
    check(finished, tmp_path, seed, modules, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(250))
def test_250_flipped_bits(finished, tmp_path, seed, monkeypatch, capsys):
    check(finished, tmp_path, seed, (*QUICK, *SLOW), monkeypatch, capsys)
