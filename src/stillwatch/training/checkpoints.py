"""Checkpoints: a training in progress as one safetensors file, with JSON in its header."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stillwatch.files import atomic_file

_log = logging.getLogger(__name__)
_FILE = "checkpoint.safetensors"
_HEADER = "stillwatch"


@dataclass(frozen=True)
class Checkpoint:
    """The state from which a training continues exactly as without the interruption."""

    state: dict[str, Any]
    """JSON values."""
    tensors: dict[str, Tensor]
    """Tensors by ``group.name``."""

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of one group, without its prefix."""
        start = f"{name}."
        return {
            key.removeprefix(start): value
            for key, value in self.tensors.items()
            if key.startswith(start)
        }


def grouped(**groups: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint from its groups."""
    return {
        f"{group}.{key}": value
        for group, tensors in groups.items()
        for key, value in tensors.items()
    }


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint atomically."""
    tensors = {
        key: value.detach().cpu().contiguous().clone() for key, value in checkpoint.tensors.items()
    }
    with atomic_file(folder / _FILE) as temporary:
        # Not safetensors' own save_file: its error for a full disk is no OSError.
        temporary.write_bytes(save(tensors, metadata={_HEADER: json.dumps(checkpoint.state)}))


def load_checkpoint(folder: Path, identity: str) -> Checkpoint | None:
    """Read the folder's checkpoint of the training that ``identity`` names.

    Returns:
        None when there is none, when it is of another training, or when it is damaged; the log then
        says that the training starts from the beginning.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()[_HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        _log.warning("%s is damaged (%s): training starts from the beginning", path, error)
        return None
    if state["identity"] != identity:
        _log.warning("%s is of another training: this one starts from the beginning", path)
        return None
    return Checkpoint(state, tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser, by parameter number and name."""
    return {
        f"{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the state from ``optimizer_tensors``, in the memory layout of each parameter.

    With another layout, elementwise kernels may round the last bit differently.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        if value.shape == like.shape:
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
