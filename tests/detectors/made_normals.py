"""Normals in batches as a training gives them to a detector, and maps as inspection makes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillwatch.combination import Combination, LevelMaps, combine
from stillwatch.detectors.base import Detector
from stillwatch.geometry import fitted
from stillwatch.inference.stitching import level_maps
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.teachers.networks import Teacher, images_to_input

CPU = torch.device("cpu")


@dataclass(frozen=True)
class MadeBatch:
    images: Tensor
    teacher: Teacher
    photographs: Tensor | None = None
    progress: float = 1.0

    @cached_property
    def features(self) -> list[Tensor]:
        return self.teacher(self.images)

    def covered(self, stride: int) -> Tensor:
        count, _, height, width = self.images.shape
        return torch.ones(count, height // stride, width // stride, dtype=torch.bool)


class MadeNormals:
    def __init__(self, images: NDArray[np.uint8], teacher: Teacher, batch_size: int = 4) -> None:
        self._images = images_to_input(torch.from_numpy(images))
        self._teacher = teacher
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[MadeBatch]:
        for images in self._images.split(self._batch_size):
            yield MadeBatch(images, self._teacher)


def one_batch(images: NDArray[np.uint8], teacher: Teacher) -> MadeBatch:
    return MadeBatch(images_to_input(torch.from_numpy(images)), teacher)


def levels_of(detector: Detector, images: NDArray[np.uint8]) -> list[LevelMaps]:
    """Level maps of square images of one tile each."""
    geometry = fitted([images.shape[1:3]], images.shape[1])
    return list(level_maps(TorchScorer(detector, CPU), geometry, images, len(images)))


def combined(levels: Sequence[LevelMaps], combination: Combination) -> NDArray[np.float32]:
    return np.stack([combine(one, combination) for one in levels])


def known_levels(maps: Sequence[Tensor], strides: Sequence[int]) -> LevelMaps:
    """Of one square image, from maps (h, w)."""
    side = len(maps[0]) * strides[0]
    return LevelMaps(tuple(one.float().numpy() for one in maps), tuple(strides), side, side)
