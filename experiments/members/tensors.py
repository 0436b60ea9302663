"""Tensors in files: in checkpoints, and in files that a run's members share."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from pbt import checkpoint, files, task

STATE = "agent.safetensors"
"""Name of the file of a learner's tensors in a checkpoint."""
_TEMPORARY = ".tmp-"


def save_state(directory: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write a learner's state into a checkpoint that is being made.

    Raises:
        pbt.task.Diverged: A weight or statistic is not finite. Nothing was written.
    """
    if (name := _not_finite(state)) is not None:
        raise task.Diverged(f"non-finite values in {name}")
    whole = {name: tensor.contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(whole, directory / STATE)


def load_state(directory: Path) -> dict[str, torch.Tensor]:
    """Return the learner's state in a checkpoint, on the CPU.

    Raises:
        pbt.checkpoint.CheckpointError: The file cannot be read, or holds NaN or infinity.
    """
    try:
        state, _ = read(directory / STATE)
    except (OSError, safetensors.SafetensorError) as error:
        raise checkpoint.CheckpointError(f"unreadable checkpoint {directory}: {error}") from error
    if (name := _not_finite(state)) is not None:
        raise checkpoint.CheckpointError(f"{directory / STATE}: {name} is not finite")
    return state


def _not_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of a tensor that holds NaN or infinity, or None."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    Raises:
        OSError: The file cannot be read.
        safetensors.SafetensorError: It is damaged.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors into a file that appears complete or not at all, and survives a power cut.

    Args:
        path: The file. Another one of that name is replaced.
        tensors: Tensors by name.
        metadata: Texts by name, kept in the same file.
    """
    files.remove_old(path.parent, f"{_TEMPORARY}*")
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{secrets.token_hex(8)}")
    try:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(whole, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    files.sync_directory(path.parent)
