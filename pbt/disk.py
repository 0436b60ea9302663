"""A full disk: recognise it, wait a little for space, then give up with a message."""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

_log = logging.getLogger(__name__)

Written = TypeVar("Written")

PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""Pauses in seconds before a write to a full disk is tried again."""


class DiskFull(Exception):
    """The disk has no room for a checkpoint. The message says how much is free and needed."""


def is_full(error: BaseException) -> bool:
    """Return whether an error or its cause is a full disk, a quota or a file size limit."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error).lower()
    if "no space left" in text or "disk is full" in text or "file too large" in text:
        return True
    return error.__cause__ is not None and is_full(error.__cause__)


def retry(
    write: Callable[[], Written],
    describe: Callable[[Exception], str],
    make_room: Callable[[], None] = lambda: None,
) -> Written:
    """Call `write`, again after each of `PAUSES_S` while the disk is full.

    Args:
        write: Writes, or raises.
        describe: Says what is missing, from the error that `write` raised.
        make_room: Deletes what is not needed. Called before the first pause.

    Raises:
        DiskFull: The disk is still full after the last pause.
    """
    for pause_s in (0.0, *PAUSES_S, None):
        try:
            return write()
        except Exception as error:
            if not is_full(error):
                raise
            message = describe(error)
        if pause_s == 0:
            make_room()
        elif pause_s is not None:
            _log.warning("%s; trying again in %s s", message, pause_s)
            time.sleep(pause_s)
    raise DiskFull(message)
