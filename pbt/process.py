"""What a worker does as a process: heed signals, show its launcher progress, and end with it."""

import contextlib
import ctypes
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BEAT_INTERVAL_S = 0.25
_REPEAT_S = 60.0
"""Seconds between two lines that say the same."""
_PR_SET_PDEATHSIG = 1


class Stop:
    """The first signal that asked to stop. A second one ends the process at once.

    Args:
        before_exit: Called when the second signal comes, to kill children.
    """

    def __init__(self, before_exit: Callable[[], None] = lambda: None) -> None:
        self.signal_number = 0
        self._before_exit = before_exit

    def __call__(self) -> int:
        """Return the number of that signal; 0 before it came."""
        return self.signal_number

    @contextlib.contextmanager
    def installed(self) -> Iterator["Stop"]:
        """Handle the stop signals inside. Python allows this only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        # A signal that is ignored on purpose stays ignored (SIGHUP by nohup, SIGINT by "&").
        heard = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in heard}
        # A parent may have blocked them, as Ray does, and a process inherits that.
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)
        try:
            yield self
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number:
            self._before_exit()
            os._exit(128 + number)
        self.signal_number = number


class Beat:
    """Shows the launcher through a pipe that the worker makes progress.

    It is called only when there is progress, so a worker that hangs falls silent. If the launcher
    is gone, it asks the worker to stop.

    Args:
        stop: The worker's stop signal.
        descriptor: Write end of the pipe; None without a launcher.
        exit_after_s: Seconds of silence after which the process ends with its stacks on standard
            error. It must be longer than the launcher's patience. It matters only when the launcher
            is gone and the worker hangs, even in a call that never gives Python control.
    """

    def __init__(
        self, stop: Stop, descriptor: int | None, exit_after_s: float | None = None
    ) -> None:
        self._stop = stop
        self._descriptor = descriptor
        self._exit_after_s = exit_after_s
        self._written_s = 0.0
        if descriptor is not None:
            os.set_blocking(descriptor, False)
        self._arm()

    def __call__(self) -> None:
        """Show progress, at most a few times a second."""
        now_s = time.monotonic()
        if self._descriptor is None or now_s - self._written_s < BEAT_INTERVAL_S:
            return
        self._written_s = now_s
        self._arm()
        try:
            os.write(self._descriptor, b".")
        except BlockingIOError:
            pass  # the launcher is busy, and what it has not read yet says the same
        except OSError:  # the launcher is gone
            self._stop.signal_number = self._stop.signal_number or signal.SIGTERM

    def _arm(self) -> None:
        """Start the watchdog's time again. It is a thread in C, which needs no Python to run."""
        if self._exit_after_s is not None:
            faulthandler.dump_traceback_later(self._exit_after_s, exit=True)


class Waiting:
    """Says what is waited for: at first, and then every minute while the wait goes on.

    Args:
        say: Shows a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said_s = -math.inf

    def __call__(self, problem: str, way_out: str) -> None:
        """Call it after each attempt in vain.

        Args:
            problem: What is waited for, such as a store that is locked.
            way_out: What a person can do.
        """
        if time.monotonic() - self._said_s >= _REPEAT_S:
            self._said_s = time.monotonic()
            self._say(f"{problem}; waiting: {way_out}")


def python_path() -> str:
    """Return the PYTHONPATH with which another process finds what this one would import.

    So a learner of the user's own is found, which the run names as "my_learner:make_task".
    """
    return os.pathsep.join(os.path.abspath(path) for path in sys.path)


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent ends.

    On other systems, and if the parent ended before this call, the next `Beat` notices.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def dump_stacks_on_abort() -> None:
    """Print the stacks of all threads to standard error before the process dies of SIGABRT."""
    faulthandler.enable(all_threads=True)
