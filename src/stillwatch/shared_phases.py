"""Phases that trainings have in common: trained by the first, kept in a folder for the rest."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stillwatch.checkpoints import Checkpoint, grouped, load_checkpoint, save_checkpoint
from stillwatch.detectors.base import Phase
from stillwatch.teachers import Teacher

_GROUP = "kept"


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


def load_shared(folder: Path, phase: Phase) -> int | None:
    """Give the phase's module the weights in ``folder``.

    Returns:
        The epoch that was kept; None if nothing usable is there, and nothing has changed.
    """
    found = load_checkpoint(folder, folder.name)
    if found is None:
        return None
    phase.module.load_state_dict(found.group(_GROUP))
    return int(found.state["epoch"])


def save_shared(folder: Path, weights: dict[str, Tensor], epoch: int) -> None:
    """Keep a phase's weights.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    state = {"identity": folder.name, "epoch": epoch}
    save_checkpoint(folder, Checkpoint(state, grouped(**{_GROUP: weights})))
