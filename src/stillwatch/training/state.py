"""The state of a phase during its training, and its form in a checkpoint."""

import math
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from stillwatch.detectors.base import Phase
from stillwatch.training.checkpoints import (
    Checkpoint,
    grouped,
    optimizer_tensors,
    restore_optimizer,
)


@dataclass
class PhaseState:
    """A phase's optimiser, and the weights that are kept."""

    phase: Phase
    optimizer: torch.optim.Optimizer
    kept: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the best epoch so far, or of the last."""
    kept_loss: float = math.inf
    kept_epoch: int = -1
    epochs_done: int = 0

    @classmethod
    def start(cls, phase: Phase) -> Self:
        """The state before the first step."""
        optimizer = phase.optimizer(p for p in phase.module.parameters() if p.requires_grad)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return cls(phase, optimizer)

    def set_learning_rate(self, progress: float) -> None:
        """Apply the phase's schedule at ``progress`` in (0, 1)."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.phase.schedule(progress)

    def keep_if_better(self, loss: float, epoch: int) -> None:
        """Keep the module's present weights, unless an earlier epoch had a lower loss."""
        if loss < self.kept_loss or not self.phase.keeps_best_epoch:
            weights = self.phase.module.state_dict()
            self.kept = {name: value.detach().clone() for name, value in weights.items()}
            self.kept_loss, self.kept_epoch = loss, epoch

    def tensors(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint, without the module's own weights."""
        return grouped(optimizer=optimizer_tensors(self.optimizer), kept=self.kept)

    def values(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {
            "kept_loss": self.kept_loss,
            "kept_epoch": self.kept_epoch,
            "epochs_done": self.epochs_done,
        }

    def restore(self, saved: Checkpoint) -> None:
        """Restore what ``tensors`` and ``values`` gave."""
        restore_optimizer(self.optimizer, saved.group("optimizer"))
        self.kept = saved.group("kept")
        self.kept_loss = saved.state["kept_loss"]
        self.kept_epoch = saved.state["kept_epoch"]
        self.epochs_done = saved.state["epochs_done"]
