"""Who takes part in a retraining: every detector with every seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Entrant:
    """A detector that is trained with one seed."""

    detector: str
    """Name of the method."""
    seed: int
    several: bool = False
    """Its detector takes part with other seeds, too."""

    @property
    def name(self) -> str:
        """What tells it apart from the others of its retraining; fit for a tag of MLflow."""
        return f"{self.detector} seed {self.seed}" if self.several else self.detector


def entrants(detectors: Iterable[str], seeds: Sequence[int]) -> tuple[Entrant, ...]:
    """Every detector with every seed: one detector after the other, the first seed first.

    Args:
        detectors: names of methods; one that comes twice takes part once.
        seeds: at least one, none twice.
    """
    several = len(seeds) > 1
    return tuple(
        Entrant(detector, seed, several) for detector in dict.fromkeys(detectors) for seed in seeds
    )
