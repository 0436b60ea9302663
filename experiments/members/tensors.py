"""Files of tensors that appear complete or not at all."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from pbt import files

_TEMPORARY = ".tmp-"


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file that `write` wrote.

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
