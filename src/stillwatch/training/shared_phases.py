"""Phases that trainings have in common: trained by the first, kept in a folder for the rest."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stillwatch.detectors.base import Phase
from stillwatch.teachers.networks import Teacher
from stillwatch.training.checkpoints import Checkpoint, grouped, load_checkpoint, save_checkpoint

_GROUP = "kept"


@dataclass(frozen=True)
class SharedPhase:
    """A phase that another training has trained."""

    epoch: int
    """That was kept."""
    seconds: float | None
    """That it took; None where an earlier version did not write them down."""


def shared_folder(
    root: Path, phase: Phase, teacher: Teacher, images: Iterable[NDArray[np.uint8]]
) -> Path:
    """Where a phase's weights belong: named by all that they depend on.

    Args:
        root: folder of all shared phases.
        phase: has ``shared_as``.
        teacher: that of the detector.
        images: uint8 arrays that the phase trains on and is watched on.
    """
    digest = hashlib.sha256(f"{phase.name}/{phase.shared_as}/{teacher.digest}".encode())
    for part in images:
        digest.update(str(part.shape).encode())
        digest.update(np.ascontiguousarray(part).data)
    return root / digest.hexdigest()


def load_shared(folder: Path, phase: Phase) -> SharedPhase | None:
    """Give the phase's module the weights in ``folder``.

    Returns:
        How it was trained; None if nothing usable is there, and nothing has changed.
    """
    found = load_checkpoint(folder, folder.name)
    if found is None:
        return None
    phase.module.load_state_dict(found.group(_GROUP))
    return SharedPhase(found.state["epoch"], found.state.get("seconds"))


def save_shared(folder: Path, weights: dict[str, Tensor], epoch: int, seconds: float) -> None:
    """Keep a phase's weights, the epoch that they are of and the seconds that all epochs took."""
    state = {"identity": folder.name, "epoch": epoch, "seconds": seconds}
    save_checkpoint(folder, Checkpoint(state, grouped(**{_GROUP: weights})))
