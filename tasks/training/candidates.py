"""The candidates of a retraining: every detector with every seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DetectorSeed:
    """A detector that is trained with one seed."""

    detector: str
    """Name of the method."""
    seed: int
    has_other_seeds: bool = False
    """The same retraining trains the detector with other seeds as well."""

    @property
    def name(self) -> str:
        """A name that is unique within a retraining and may be part of an MLflow tag."""
        return f"{self.detector} seed {self.seed}" if self.has_other_seeds else self.detector


def list_candidates(detectors: Iterable[str], seeds: Sequence[int]) -> tuple[DetectorSeed, ...]:
    """Combine every detector with every seed, detector by detector, the first seed first.

    Args:
        detectors: names of methods; duplicates count once.
        seeds: at least one, without duplicates.
    """
    has_other_seeds = len(seeds) > 1
    return tuple(
        DetectorSeed(detector, seed, has_other_seeds)
        for detector in dict.fromkeys(detectors)
        for seed in seeds
    )
