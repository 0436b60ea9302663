"""Pictures of what members make, such as images of a generator, kept over the whole training.

A task may write `picture.png` into its checkpoint. Checkpoints are deleted when newer ones
supersede them. The pictures of all trained versions stay, as
`<run directory>/pictures/<member>-<version>.png`.
"""

import contextlib
import logging
import os
import secrets
import shutil
from pathlib import Path

from pbt import files

_log = logging.getLogger(__name__)

FILE_NAME = "picture.png"
"""Name of the picture in a checkpoint."""
DIRECTORY = "pictures"
"""Name of the pictures' directory in a run's."""
_TEMPORARY = ".tmp-"


def path(run_dir: Path, member: int, version: int) -> Path:
    """Return the path of the picture of a member's version, which need not exist."""
    return run_dir / DIRECTORY / f"{member:02d}-{version}.png"


def keep(run_dir: Path, checkpoint: Path, member: int, version: int) -> None:
    """Keep the picture in a published checkpoint, if there is one, under the version's name.

    The picture of an earlier try at the same version is replaced. A picture that cannot be written
    is left out, and the log says so, because training does not depend on it.

    Args:
        run_dir: The run's directory.
        checkpoint: Directory of the checkpoint.
        member: The member's number.
        version: The version.
    """
    source, target = checkpoint / FILE_NAME, path(run_dir, member, version)
    if not source.is_file():
        return
    temporary = target.with_name(f"{_TEMPORARY}{target.name}-{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(exist_ok=True)
        files.remove_old(target.parent, f"{_TEMPORARY}*")  # of killed processes
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)  # this file system has no hard links
        os.replace(temporary, target)
    except OSError as error:
        _log.warning("picture of member %d, version %d is not kept: %s", member, version, error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
