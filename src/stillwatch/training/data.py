"""The tiles of a training, on a GPU where they fit, and the teacher's features of them."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from stillwatch.errors import TrainingError
from stillwatch.geometry import Geometry, fitted
from stillwatch.images.decode import Pixels
from stillwatch.machine.devices import fits, full_precision
from stillwatch.teachers.networks import Teacher, images_to_input

_BATCH = 16
"""Tiles that are kept, or whose features are computed, at a time."""
_MOST_KEPT_BYTES = 1_500_000_000
"""Of features in the memory of a machine, so that a process stays below 3 GB."""
PHOTOGRAPH_ENLARGEMENT = 2
"""Side of a photograph relative to that of a tile."""
_WATCHED_SHARE = 0.1
"""Share of the photographs that are for validation."""


class TileSet:
    """The tiles of images of any shape.

    Args:
        images: scaled, uint8 (h, w, 3) each.
        geometry: how they are cut into tiles.
    """

    def __init__(self, images: Sequence[Pixels], geometry: Geometry) -> None:
        self.images = images
        self._geometry = geometry
        self._tiles = [
            (image, tile) for image in images for tile in geometry.tiles(*image.shape[:2])
        ]

    def __len__(self) -> int:
        return len(self._tiles)

    def stacked(self, rows: Iterable[int]) -> NDArray[np.uint8]:
        """The tiles of these rows, uint8 (B, H, W, 3)."""
        return np.stack([self._geometry.cut(*self._tiles[row]) for row in rows])

    def covered(self, rows: Sequence[int], stride: int) -> NDArray[np.bool_]:
        """Positions of a level that are no padding, bool (B, H / stride, W / stride)."""
        height, width = (side // stride for side in self._geometry.tile)
        covered = np.zeros((len(rows), height, width), np.bool_)
        for positions, row in zip(covered, rows, strict=True):
            image, tile = self._tiles[row]
            below, right = image.shape[0] - tile.top, image.shape[1] - tile.left
            positions[: -(-below // stride), : -(-right // stride)] = True
        return covered

    @cached_property
    def digest(self) -> str:
        """sha256 of the pixels, the shapes and the geometry."""
        digest = hashlib.sha256(self._geometry.model_dump_json().encode())
        for image in self.images:
            digest.update(str(image.shape).encode())
            digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()


class TilePool:
    """Tiles from which a training draws batches, with the teacher's features.

    Features are rounded to float16 whether they are kept or, where memory is short, computed anew
    for every batch, so that the memory of a machine does not change the trained weights.

    Args:
        tiles: of all images.
        teacher: gives the features.
        device: of the batches.
        photographs: from which a batch's ``photographs`` are drawn.
        enlargement: by which the sides of the tiles are multiplied in batches.
    """

    def __init__(
        self,
        tiles: TileSet,
        teacher: Teacher,
        device: torch.device,
        *,
        photographs: "TilePool | None" = None,
        enlargement: int = 1,
    ) -> None:
        self.tiles = tiles
        self.teacher = teacher
        self.device = device
        self.photographs = photographs
        self.enlargement = enlargement
        self._features: list[Tensor] | None = None
        self._keeps_features: bool | None = None

    def __len__(self) -> int:
        return len(self.tiles)

    def batches(self, batch_size: int, rows: Tensor) -> "Iterator[TileBatch]":
        """Batches of at most ``batch_size``, equal in size to within one tile, of these rows."""
        for part in rows.tensor_split(math.ceil(len(rows) / batch_size)):
            yield TileBatch(self, part)

    def spread(self, most: int) -> Tensor:
        """Rows of all tiles, or of ``most``, evenly spread."""
        count = min(most, len(self))
        return torch.arange(count) * len(self) // count

    def drawn(self, epoch: int, count: int, seed: str) -> Tensor:
        """Rows of an epoch: the next ``count`` of a sequence of random permutations of all tiles.

        Args:
            epoch: 0-based.
            count: of an epoch, at most the number of tiles.
            seed: names the sequence.
        """
        first = epoch * count
        permutations = [
            torch.randperm(len(self), generator=generator_of(f"{seed}/{number}"))
            for number in range(first // len(self), (first + count - 1) // len(self) + 1)
        ]
        start = first % len(self)
        return torch.cat(permutations)[start : start + count]

    def images(self, rows: Tensor) -> Tensor:
        """Tiles ``rows`` as float32 (B, 3, H, W) in [0, 1] on the device."""
        if self._on_gpu is None:
            pixels = torch.from_numpy(self.tiles.stacked(rows.tolist())).to(self.device)
        else:
            pixels = self._on_gpu.index_select(0, rows.to(self.device))
        images = images_to_input(pixels)
        if self.enlargement == 1:
            return images
        return F.interpolate(
            images, scale_factor=self.enlargement, mode="bilinear", align_corners=False
        )

    def features(self, rows: Tensor) -> list[Tensor]:
        """The teacher's float32 features of tiles ``rows`` on the device."""
        if self._keeps_features is None:
            self._keep_features()
        if self._features is None:
            return [level.float() for level in self._computed(rows)]
        return [
            level.index_select(0, rows.to(level.device)).to(self.device).permute(0, 3, 1, 2).float()
            for level in self._features
        ]

    @cached_property
    def _on_gpu(self) -> Tensor | None:
        shape = len(self), *self.tiles.stacked([0]).shape[1:]
        if self.device.type != "cuda" or not fits(math.prod(shape), self.device):
            return None
        kept = torch.empty(shape, dtype=torch.uint8, device=self.device)
        # In parts: together they may not fit into the memory of the machine.
        for rows in torch.split(torch.arange(len(self)), _BATCH):
            kept[rows[0] : rows[-1] + 1] = torch.from_numpy(self.tiles.stacked(rows.tolist()))
        return kept

    def _keep_features(self) -> None:
        """Compute and keep all features, (N, h, w, C) per level, where they fit into memory."""
        first = [level.permute(0, 2, 3, 1) for level in self._computed(torch.tensor([0]))]
        size = len(self) * sum(level.nbytes for level in first)
        homes = [self.device] if self.device.type == "cuda" and fits(size, self.device) else []
        if size <= _MOST_KEPT_BYTES and fits(size, torch.device("cpu")):
            homes.append(torch.device("cpu"))
        self._keeps_features = bool(homes)
        if not homes:
            return
        kept = [
            torch.empty((len(self), *x.shape[1:]), dtype=x.dtype, device=homes[0]) for x in first
        ]
        for rows in torch.split(torch.arange(len(self)), _BATCH):
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
class TileBatch:
    """Some of the tiles; pixels and features are computed when they are first used."""

    pool: TilePool
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

    def covered(self, stride: int) -> Tensor:
        """Which positions of a level are no padding: bool (B, H / stride, W / stride)."""
        covered = self.pool.tiles.covered(self.rows.tolist(), stride)
        return torch.from_numpy(covered).to(self.pool.device)

    @property
    def photographs(self) -> Tensor | None:
        """float32 (B, 3, S, S) in [0, 1], drawn anew at each access; None if there are none."""
        source = self.pool.photographs
        if source is None:
            return None
        return source.images(torch.randint(len(source), (len(self),)))

    def __len__(self) -> int:
        return len(self.rows)


class TrainingImages:
    """All images of a training.

    Args:
        train_images: normals, scaled, uint8 (h, w, 3) each.
        validation_images: normals, likewise.
        photographs: uint8 (P, S, S, 3), at least 3, in place of the normals for phases that train
            on photographs: the weights of these phases may then be shared by all categories. None:
            they get the normals, enlarged.
        geometry: of the category.
        teacher: gives the features.
        device: of the batches.
    """

    def __init__(
        self,
        train_images: Sequence[Pixels],
        validation_images: Sequence[Pixels],
        photographs: NDArray[np.uint8] | None,
        geometry: Geometry,
        teacher: Teacher,
        device: torch.device,
    ) -> None:
        self.geometry = geometry
        self._make = partial(TilePool, teacher=teacher, device=device)
        self._tiles = TileSet(train_images, geometry), TileSet(validation_images, geometry)
        self._photographs = photographs
        drawn = None if photographs is None else self.photographs[0]
        self.normals = (
            self._make(self._tiles[0], photographs=drawn),
            self._make(self._tiles[1], photographs=drawn),
        )

    @cached_property
    def photographs(self) -> tuple[TilePool, TilePool]:
        """Training and validation images of phases on photographs."""
        if self._photographs is None:
            train, watched = self._tiles
            enlarged = partial(self._make, enlargement=PHOTOGRAPH_ENLARGEMENT)
            return enlarged(train), enlarged(watched)
        shape = self._photographs.shape[1], self._photographs.shape[2]
        geometry = fitted([shape], max(shape))
        count = max(1, round(_WATCHED_SHARE * len(self._photographs)))
        return (
            self._make(TileSet(list(self._photographs[count:]), geometry)),
            self._make(TileSet(list(self._photographs[:count]), geometry)),
        )


def evenly_spread(images: Sequence[Pixels], most_pixels: int) -> list[Pixels]:
    """All images, or at least one and as many as surely have at most ``most_pixels`` together."""
    largest = max(image.shape[0] * image.shape[1] for image in images)
    count = max(1, min(len(images), most_pixels // largest))
    return [images[number * len(images) // count] for number in range(count)]


def generator_of(name: str) -> torch.Generator:
    """A random generator whose sequence depends on a name alone."""
    return torch.Generator().manual_seed(seed_of(name))


def seed_of(name: str) -> int:
    """A seed that depends on a name alone, below 2^63."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
