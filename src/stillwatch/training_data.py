"""Normals as the training loop reads them: on the device where they fit, their features kept."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillwatch.devices import fits, full_precision
from stillwatch.errors import TrainingError
from stillwatch.teachers import Teacher, images_to_input

_FEATURE_BATCH = 16


class Normals:
    """The normals of one part, uint8 (N, S, S, 3), and the teacher's features of them.

    Features are rounded to float16 whether they are kept or, where memory is short, computed anew
    for every batch: how much memory a machine has must not decide what it trains.
    """

    def __init__(self, images: NDArray[np.uint8], teacher: Teacher, device: torch.device) -> None:
        self.teacher = teacher
        self.device = device
        # A copy: the store that the images come from is a memory map that must not be written to.
        pixels = torch.tensor(np.asarray(images))
        self._pixels = pixels.to(device) if fits(pixels.nbytes, device) else pixels
        self._features: list[Tensor] | None = None
        self._keeps_features: bool | None = None

    def __len__(self) -> int:
        return len(self._pixels)

    def batches(self, batch_size: int, order: Tensor | None = None) -> "Iterator[NormalsBatch]":
        """Batches of at most ``batch_size``, equal in size to within one image, in ``order``."""
        order = torch.arange(len(self)) if order is None else order
        for rows in order.tensor_split(math.ceil(len(order) / batch_size)):
            yield NormalsBatch(self, rows)

    def images(self, rows: Tensor) -> Tensor:
        """Images ``rows`` as float32 (B, 3, S, S) in [0, 1] on the device."""
        pixels = self._pixels.index_select(0, rows.to(self._pixels.device))
        return images_to_input(pixels.to(self.device))

    def features(self, rows: Tensor) -> list[Tensor]:
        """The teacher's float32 features of images ``rows`` on the device."""
        if self._keeps_features is None:
            self._keep_features()
        if self._features is None:
            return [level.float() for level in self._computed(rows)]
        return [
            level.index_select(0, rows.to(level.device)).to(self.device).permute(0, 3, 1, 2).float()
            for level in self._features
        ]

    def _keep_features(self) -> None:
        """Fill the store of features, (N, h, w, C) per level, where there is room for it."""
        first = [level.permute(0, 2, 3, 1) for level in self._computed(torch.tensor([0]))]
        size = len(self) * sum(level.nbytes for level in first)
        homes = [home for home in (self.device, torch.device("cpu")) if fits(size, home)]
        self._keeps_features = bool(homes)
        if not homes:
            return
        kept = [
            torch.empty((len(self), *x.shape[1:]), dtype=x.dtype, device=homes[0]) for x in first
        ]
        for rows in torch.split(torch.arange(len(self)), _FEATURE_BATCH):
            for store, level in zip(kept, self._computed(rows), strict=True):
                store[rows[0] : rows[-1] + 1] = level.permute(0, 2, 3, 1)
        self._features = kept

    def _computed(self, rows: Tensor) -> list[Tensor]:
        with torch.no_grad(), full_precision(self.device):
            levels = [level.half() for level in self.teacher(self.images(rows))]
        if not all(bool(level.isfinite().all()) for level in levels):
            raise TrainingError(
                f"teacher '{self.teacher.name}' gives features that float16 cannot hold. Use "
                "another teacher, such as efficientnet_lite0."
            )
        return levels


@dataclass(frozen=True)
class NormalsBatch:
    """Some of the normals; images and features are fetched when they are asked for."""

    normals: Normals
    rows: Tensor
    progress: float = 1.0

    @cached_property
    def images(self) -> Tensor:
        """float32 (B, 3, S, S) in [0, 1]."""
        return self.normals.images(self.rows)

    @cached_property
    def features(self) -> list[Tensor]:
        """float32 (B, C_l, S/s_l, S/s_l) per level."""
        return self.normals.features(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
