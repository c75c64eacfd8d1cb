"""Phases that several trainings share: the first training keeps the weights in a folder."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from stillwatch.detectors.base import Phase
from stillwatch.teachers.networks import Teacher
from stillwatch.training.checkpoints import Checkpoint, grouped, load_checkpoint, save_checkpoint
from stillwatch.training.data import TileSet

_GROUP = "kept"


@dataclass(frozen=True)
class SharedPhase:
    """What another training recorded of a phase."""

    epoch: int
    """Epoch whose weights were kept."""
    seconds: float
    """Duration of all epochs."""


def shared_folder(
    root: Path, phase: Phase, teacher: Teacher, images: Iterable[TileSet], tiles_per_epoch: int
) -> Path:
    """The folder of a phase's weights, named by everything that they depend on.

    Args:
        root: folder of all shared phases.
        phase: has ``shared_as``.
        teacher: that of the detector.
        images: that the phase trains on and is watched on.
        tiles_per_epoch: that the phase trains on.
    """
    digest = hashlib.sha256(
        f"{phase.name}/{phase.shared_as}/{teacher.digest}/{tiles_per_epoch}".encode()
    )
    for part in images:
        digest.update(part.digest.encode())
    return root / digest.hexdigest()


def load_shared(folder: Path, phase: Phase) -> SharedPhase | None:
    """Load the weights in ``folder`` into the phase's module.

    Returns:
        Epoch and duration; None, with the module unchanged, if there are no usable weights.
    """
    found = load_checkpoint(folder, folder.name)
    if found is None:
        return None
    phase.module.load_state_dict(found.group(_GROUP))
    return SharedPhase(found.state["epoch"], found.state["seconds"])


def save_shared(folder: Path, weights: dict[str, Tensor], epoch: int, seconds: float) -> None:
    """Keep a phase's weights, the epoch that they are of and the seconds that all epochs took."""
    state = {"identity": folder.name, "epoch": epoch, "seconds": seconds}
    save_checkpoint(folder, Checkpoint(state, grouped(**{_GROUP: weights})))
