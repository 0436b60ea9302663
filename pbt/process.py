"""A worker as a process: signals, a sign of life for its launcher, and not outliving it."""

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BEAT_INTERVAL_S = 0.25
_PR_SET_PDEATHSIG = 1


class Stop:
    """Remembers the first signal that asked to stop; a second one ends the process at once."""

    def __init__(self, before_exit: Callable[[], None] = lambda: None) -> None:
        """`before_exit` is called when the second signal comes: for killing children."""
        self.signal_number = 0
        self._before_exit = before_exit

    def __call__(self) -> int:
        """The number of that signal, 0 before."""
        return self.signal_number

    @contextlib.contextmanager
    def installed(self) -> Iterator["Stop"]:
        """Handle the stop signals inside, if this is the main thread: elsewhere Python refuses."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        # What was ignored on purpose stays ignored: SIGHUP by nohup, SIGINT by a shell's "&".
        heard = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number:
            self._before_exit()
            os._exit(128 + number)
        self.signal_number = number


class Beat:
    """Tells the launcher through a pipe that the worker makes progress; ends the worker with it.

    Written at signs of progress only, so that a worker that hangs falls silent.
    """

    def __init__(self, stop: Stop, descriptor: int | None) -> None:
        self._stop = stop
        self._descriptor = descriptor
        self._written_s = 0.0
        if descriptor is not None:
            os.set_blocking(descriptor, False)

    def __call__(self) -> None:
        """Report progress, at most a few times a second."""
        now_s = time.monotonic()
        if self._descriptor is None or now_s - self._written_s < BEAT_INTERVAL_S:
            return
        self._written_s = now_s
        try:
            os.write(self._descriptor, b".")
        except BlockingIOError:
            pass  # the launcher is busy; what it has not read yet says the same
        except OSError:
            # The launcher is gone: commit what there is, and go as well.
            self._stop.signal_number = self._stop.signal_number or signal.SIGTERM


def die_with_parent() -> None:
    """Ask for SIGTERM when the parent ends, where the system can do that (Linux).

    Elsewhere, and if the parent ended before this call, the next `Beat` notices.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def dump_stacks_on_abort() -> None:
    """Print the stacks of all threads to standard error before the process dies of SIGABRT."""
    faulthandler.enable(all_threads=True)
