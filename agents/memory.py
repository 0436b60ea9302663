"""Keep freed memory in the process, for updates that free and allocate the same megabytes."""

import contextlib
import ctypes
import os

_KEPT_BYTES = 256 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed() -> None:
    """Tell glibc to keep up to 256 MB of freed blocks, for the whole process.

    By default it returns free memory at the end of its heap to the kernel, and each update of
    UNREAL then takes it back page by page, in thousands of page faults. Both thresholds are needed,
    because setting one fixes the other at glibc's small default.

    Does nothing on other C libraries, or where the variables MALLOC_TRIM_THRESHOLD_ or
    MALLOC_MMAP_THRESHOLD_ are set.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
