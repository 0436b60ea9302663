"""The network that a member of a GAN keeps while it copies only the other one from a donor.

The engine loads a donor's checkpoint into the member's live task, and then publishes the donor's
files as the member's own next checkpoint. They stay it until the member's next slice is committed.
A task that is built in between, in another worker or after a kill, finds nothing of the member's
own in them. So the network that was kept is written into a file beside the run's checkpoints, with
a digest of the donor's weights, by which such a task knows that it belongs to them.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch

from experiments.members import tensors
from pbt import checkpoint

_LOG = logging.getLogger(__name__)


def digest(path: Path) -> str:
    """Return the digest of a file of weights. Copies of the file have the same."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_published_for(directory: Path, member: int) -> bool:
    """Return whether the engine published a checkpoint as one of the member, whosever files it has.

    Args:
        directory: The checkpoint. Without a manifest it was not published at all.
        member: The member's number.
    """
    try:
        manifest = json.loads((directory / checkpoint.MANIFEST).read_text())
        return bool(manifest["member"] == member)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclasses.dataclass(frozen=True)
class KeptNetwork:
    """The file of one member. It holds the network of the last copy only."""

    path: Path | None
    """The file. None keeps nothing, so that a task that is built again has both networks of the
    donor."""

    def write(self, network: Mapping[str, torch.Tensor], donor: str, updates: int) -> None:
        """Replace the file.

        Args:
            network: State of the network that is kept, or nothing if both are the donor's.
            donor: Digest of the donor's weights.
            updates: Updates that the member has made.
        """
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors.write(self.path, network, {"donor": donor, "updates": str(updates)})

    def read(self, donor: str) -> tuple[dict[str, torch.Tensor], int] | None:
        """Return the network that was kept beside a donor's, and the member's updates.

        Args:
            donor: Digest of the donor's weights.

        Returns:
            None if there is no such file, or if it is damaged or belongs to another donor. The log
            says which.
        """
        if self.path is None:
            return None
        try:
            network, metadata = tensors.read(self.path)
            if metadata["donor"] != donor:
                raise ValueError("it was kept beside another donor's")
            return network, int(metadata["updates"])
        except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
            _LOG.warning("no kept network in %s: %s", self.path, error)
            return None
