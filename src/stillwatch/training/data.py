"""The images of a training, on the device where they fit, and the teacher's features of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from stillwatch.devices import fits, full_precision
from stillwatch.errors import TrainingError
from stillwatch.teachers.networks import Teacher, images_to_input

_FEATURE_BATCH = 16
PHOTOGRAPH_ENLARGEMENT = 2
"""Side of a photograph relative to that of the category's images."""
_WATCHED_SHARE = 0.1
"""Share of the photographs that are for validation."""


class ImagePool:
    """Images from which a training draws batches, with the teacher's features.

    Features are rounded to float16 whether they are kept or, where memory is short, computed anew
    for every batch, so that the memory of a machine does not change the trained weights.

    Args:
        images: uint8 (N, S, S, 3).
        teacher: gives the features.
        device: of the batches.
        photographs: from which a batch's ``photographs`` are drawn.
        enlargement: by which the sides of the images are multiplied in batches.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        teacher: Teacher,
        device: torch.device,
        *,
        photographs: "ImagePool | None" = None,
        enlargement: int = 1,
    ) -> None:
        self.teacher = teacher
        self.device = device
        self.photographs = photographs
        self.enlargement = enlargement
        # A copy: the images are in a memory map that must not be written to.
        pixels = torch.tensor(np.asarray(images))
        self._pixels = pixels.to(device) if fits(pixels.nbytes, device) else pixels
        self._features: list[Tensor] | None = None
        self._keeps_features: bool | None = None

    def __len__(self) -> int:
        return len(self._pixels)

    def batches(self, batch_size: int, order: Tensor | None = None) -> "Iterator[ImageBatch]":
        """Batches of at most ``batch_size``, equal in size to within one image, in ``order``."""
        order = torch.arange(len(self)) if order is None else order
        for rows in order.tensor_split(math.ceil(len(order) / batch_size)):
            yield ImageBatch(self, rows)

    def images(self, rows: Tensor) -> Tensor:
        """Images ``rows`` as float32 (B, 3, H, W) in [0, 1] on the device."""
        pixels = self._pixels.index_select(0, rows.to(self._pixels.device))
        images = images_to_input(pixels.to(self.device))
        if self.enlargement == 1:
            return images
        return F.interpolate(
            images, scale_factor=self.enlargement, mode="bilinear", align_corners=False
        )

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
        """Compute and keep all features, (N, h, w, C) per level, where they fit into memory."""
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
class ImageBatch:
    """Some of the images; pixels and features are computed when they are first used."""

    pool: ImagePool
    rows: Tensor
    progress: float = 1.0

    @cached_property
    def images(self) -> Tensor:
        """float32 (B, 3, H, W) in [0, 1]."""
        return self.pool.images(self.rows)

    @cached_property
    def features(self) -> list[Tensor]:
        """float32 (B, C_l, H/s_l, W/s_l) per level."""
        return self.pool.features(self.rows)

    @property
    def photographs(self) -> Tensor | None:
        """float32 (B, 3, 2H, 2W) in [0, 1], drawn anew at each access; None if there are none."""
        source = self.pool.photographs
        if source is None:
            return None
        return source.images(torch.randint(len(source), (len(self),)))

    def __len__(self) -> int:
        return len(self.rows)


class TrainingImages:
    """All images of a training.

    Args:
        train_images: uint8 (N, S, S, 3), normals.
        validation_images: uint8 (M, S, S, 3), normals.
        photographs: uint8 (P, 2S, 2S, 3), at least 3, in place of the normals for phases that
            train on photographs: the weights of these phases may then be shared by all categories.
            None: they get the normals, enlarged.
        teacher: gives the features.
        device: of the batches.
    """

    def __init__(
        self,
        train_images: NDArray[np.uint8],
        validation_images: NDArray[np.uint8],
        photographs: NDArray[np.uint8] | None,
        teacher: Teacher,
        device: torch.device,
    ) -> None:
        self.pixels = train_images, validation_images
        self._photographs = photographs
        self._make = partial(ImagePool, teacher=teacher, device=device)
        drawn = None if photographs is None else self.photographs[0]
        train, validation = (self._make(part, photographs=drawn) for part in self.pixels)
        self.normals = train, validation

    @cached_property
    def photographs(self) -> tuple[ImagePool, ImagePool]:
        """Training and validation images of phases on photographs."""
        train, watched = self.photograph_pixels
        enlargement = PHOTOGRAPH_ENLARGEMENT if self._photographs is None else 1
        return self._make(train, enlargement=enlargement), self._make(
            watched, enlargement=enlargement
        )

    @property
    def photograph_pixels(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The pixels of ``photographs``."""
        if self._photographs is None:
            return self.pixels
        watched = max(1, round(_WATCHED_SHARE * len(self._photographs)))
        return self._photographs[watched:], self._photographs[:watched]
