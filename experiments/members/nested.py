"""Split nested state, such as an optimiser's `state_dict`, into tensors and JSON, and join it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

PLAIN = (type(None), bool, int, float, str)
"""Types that JSON has, and types of the keys of a mapping."""


def split(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Return a value as JSON that names its tensors, and add these to `tensors`.

    Args:
        value: Tensors, NumPy arrays, numbers, texts and None, in lists, tuples and mappings.
        name: Name of the value, with which the names of its tensors begin.
        tensors: Tensors by name. They are copies on the CPU.

    Raises:
        TypeError: Something else is in it; the message says where.
    """
    if isinstance(value, torch.Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        whole = torch.as_tensor(value).detach().cpu().clone().contiguous()
        unique = name if name not in tensors else f"{name}#{len(tensors)}"
        tensors[unique] = whole
        return {kind: unique}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping):
        entries = []
        for key, entry in value.items():
            if not isinstance(key, PLAIN):
                raise TypeError(f"{name} has the key {key!r}: use numbers and texts as keys")
            entries.append([key, split(entry, f"{name}.{key}", tensors)])
        return {"mapping": entries}
    if isinstance(value, list | tuple):
        items = [split(item, f"{name}.{at}", tensors) for at, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise TypeError(
        f"{name} is a {type(value).__name__}, which cannot be saved: use tensors, arrays, numbers, "
        "texts, lists and mappings, such as a module's own state_dict()"
    )


def join(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return the value that `split` has split. Mappings are dicts.

    Raises:
        ValueError: It is no such tree, or names a tensor that is not there.
    """
    if isinstance(tree, PLAIN):
        return tree
    if isinstance(tree, list):
        return [join(item, tensors) for item in tree]
    if isinstance(tree, dict) and len(tree) == 1:
        ((kind, content),) = tree.items()
        if kind in ("tensor", "array") and content in tensors:
            return tensors[content] if kind == "tensor" else tensors[content].numpy()
        if kind == "tuple":
            return tuple(join(item, tensors) for item in content)
        if kind == "mapping":
            return {key: join(entry, tensors) for key, entry in content}
    raise ValueError(f"no part of a saved state: {tree!r:.40}")
