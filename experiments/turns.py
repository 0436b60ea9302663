"""`Turn`: groups of processes that work one group at a time, so that noise hits all alike."""

import dataclasses
import multiprocessing
import multiprocessing.synchronize
import os
import statistics
import time
from typing import Any

SETTLE_S = 1.0
"""Between starting a turn and measuring it."""


@dataclasses.dataclass
class Turn:
    """A group of processes that work only while it is their turn."""

    name: str
    go: multiprocessing.synchronize.Event
    steps: list[Any]
    """Agent steps done by each process; shared memory."""
    paused_s: list[Any]
    """Seconds that each process waited for its turn, -1 until it is ready; shared memory."""
    processes: list[multiprocessing.process.BaseProcess]
    rates: list[float] = dataclasses.field(default_factory=list)
    """Agent steps per second of all processes together, one per window."""

    def measure(self, seconds: float, tick: Any = None) -> None:
        """Let the group work for a while, and note how fast it was."""
        self.go.set()
        _wait(SETTLE_S, tick)
        before, started_s = sum(s.value for s in self.steps), time.monotonic()
        _wait(seconds, tick)
        self.rates.append(
            (sum(s.value for s in self.steps) - before) / (time.monotonic() - started_s)
        )
        self.go.clear()

    @property
    def rate(self) -> float:
        """Median over the windows."""
        return statistics.median(self.rates)

    def wait_until_ready(self) -> None:
        """Return when every process waits for its first turn.

        Raises:
            RuntimeError: one died; its message stands above.
        """
        while min(value.value for value in self.paused_s) < 0:
            self.check()
            time.sleep(0.1)

    def check(self) -> None:
        """Raise RuntimeError if a process died; its message stands above."""
        if not all(process.is_alive() for process in self.processes):
            raise RuntimeError(f"a process of the {self.name} died")

    def end(self) -> None:
        """Stop the processes."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()


def _wait(seconds: float, tick: Any) -> None:
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        if tick is not None:
            tick()
        time.sleep(min(0.1, left_s))


def start(name: str, count: int, target: Any, *arguments: Any) -> Turn:
    """Start `count` processes that run `target(go, steps, paused_s, *arguments)`, not yet working.

    `target` calls `wait_for(go, paused_s)` as soon as it is ready and then again and again, and
    adds what it has done to `steps`.
    """
    context = multiprocessing.get_context("spawn")
    turn = Turn(
        name,
        context.Event(),
        [context.Value("q", 0) for _ in range(count)],
        [context.Value("d", -1.0) for _ in range(count)],
        [],
    )
    for index in range(count):
        process = context.Process(
            target=target,
            args=(turn.go, turn.steps[index], turn.paused_s[index], *arguments),
            daemon=True,
        )
        process.start()
        turn.processes.append(process)
    return turn


def wait_for(go: Any, paused_s: Any) -> None:
    """In a process: wait until it is the group's turn; dies with the process that measures."""
    paused_s.value = max(paused_s.value, 0.0)
    if go.is_set():
        return
    started_s = time.monotonic()
    parent = os.getppid()
    while not go.wait(0.5):
        if os.getppid() != parent:
            raise SystemExit
    paused_s.value += time.monotonic() - started_s
