"""A process under a launcher: blocked signals, and a hang after the launcher's end."""

import os
import signal
import subprocess
import sys

import pytest

from pbt import process

# The child inherits the blocked signals, as a worker of Ray does.
BLOCKED = """
import os, signal, sys, time
from pbt import process
with process.Stop().installed() as stop:
    os.kill(os.getpid(), signal.SIG{name})
    deadline = time.monotonic() + 5
    while not stop() and time.monotonic() < deadline:
        time.sleep(0.01)
sys.exit(stop())
"""

# ctypes.PyDLL keeps the GIL during the call, so no Python code runs any more, signals included.
HUNG = """
import ctypes, os
from pbt import process
read_end, write_end = os.pipe()
stop = process.Stop()
with stop.installed():
    process.Beat(stop, write_end, exit_after_s=1.0)()
    ctypes.PyDLL(None).sleep(60)
"""


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_a_parent_that_blocks_signals_does_not_make_a_process_unstoppable(name):
    stopping = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    try:
        child = subprocess.run(
            [sys.executable, "-c", BLOCKED.format(name=name)], timeout=60, check=False
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert child.returncode == getattr(signal, f"SIG{name}")


def test_what_was_blocked_before_is_blocked_again():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with process.Stop().installed() as stop:
            assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop() == signal.SIGTERM
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_silent_process_ends_by_itself_even_if_python_cannot_run():
    child = subprocess.run(
        [sys.executable, "-c", HUNG], timeout=30, check=False, capture_output=True, text=True
    )
    assert child.returncode == 1
    assert "Timeout" in child.stderr
    assert "<string>" in child.stderr  # its stacks


def test_what_is_waited_for_is_said_at_first_and_then_every_minute(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr(process.time, "monotonic", lambda: now_s)
    said = []
    waiting = process.Waiting(said.append)
    for seconds in range(150):
        now_s = 100.0 + seconds
        waiting("the store is locked", "see who has it open")
    assert said == ["the store is locked; waiting: see who has it open"] * 3
