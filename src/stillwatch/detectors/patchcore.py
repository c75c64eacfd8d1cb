"""PatchCore: the distance of each patch's features to a memory of normal patches.

Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly
Detection", CVPR 2022, arXiv 2106.08265, section 3. It does not distil: it is a
baseline, and wins a retraining unless ``retrain.allow_baselines`` is off.

With M the memory, a coreset of the normals' patches, p a patch of an image:

    map = min over m in M of |p - m|, smoothed

Unless ``whitened`` is off, |W (p - m)| is in place of |p - m|, where W whitens the patches: with C
the covariance of the normals' patches and c the mean of its eigenvalues, W^T W = (C + 0.1 c I)^-1.
Directions in which normal patches vary much then count no more than others.

MVTec AD with a Wide-ResNet-50-2 teacher at 224×224, mean of the 15 categories, as the paper reports
it for a memory of 25 / 10 / 1 % of the patches: image AUROC 0.991 / 0.990 / 0.990, pixel AUROC
0.981 / 0.981 / 0.980.

As in the paper: the levels at strides 8 and 16, their 3×3 neighbourhoods averaged, the coarser one
resized to the finer, a greedy coreset on random projections, the distance to the nearest patch in
memory, Gaussian smoothing. Our own: W; the image score is the maximum of the map, where the paper
(equation 7) weighs the largest distance down where the memory is dense; images are not cropped, and
neighbourhoods are averaged per channel (as anomalib does), where the authors' code pools flattened
neighbourhoods to 1024 values whatever the teacher; the coreset is chosen from at most
``max_patches`` of the patches, drawn at random, so that memory does not grow with the number of
images; and the Gaussian is 4 pixels wide at 256.

Our own figures are in docs/results.md.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from stillwatch.detectors.base import Detector, Normals, Phase
from stillwatch.detectors.blocks.coreset import greedy_coreset
from stillwatch.detectors.blocks.maps import joined_neighbourhoods
from stillwatch.detectors.blocks.parts import parts
from stillwatch.sections import Section
from stillwatch.teachers.networks import Teacher

_LEVELS = slice(1, 3)
_STRIDE = 8
"""Of the finer level, in pixels."""
_PROJECTED = 128
_QUERIES = 4096
_ROWS = 16_384
"""Patches that are whitened at a time."""
_SHRINKAGE = 0.1
_LEAST_VARIANCE = 1e-12


class PatchCoreSettings(Section):
    """The authors' coresets: 0.25, 0.1 and 0.01."""

    coreset: float = Field(0.01, gt=0, le=1, description="share of the patches that is remembered")
    max_patches: int = Field(
        250_000,
        ge=1,
        description="patches of the training normals that the coreset is chosen from, at most; "
        "drawn at random",
    )
    whitened: bool = Field(
        True, description="divide out how much and how jointly the features of normals vary"
    )


class PatchCore(Detector):
    """A memory bank of normal patches; nothing is trained."""

    name = "patchcore"
    version = 2
    Settings = PatchCoreSettings
    quick: ClassVar = {"coreset": 0.2}
    paper: ClassVar = {"coreset": 0.1, "max_patches": 10_000_000, "whitened": False}
    distils = False
    exportable = True

    settings: PatchCoreSettings
    memory: Tensor
    whitening: Tensor

    def __init__(self, teacher: Teacher, settings: PatchCoreSettings) -> None:
        super().__init__(teacher, settings)
        channels = sum(teacher.channels[_LEVELS])
        self.register_buffer("memory", torch.zeros(1, channels))
        if settings.whitened:
            self.register_buffer("whitening", torch.eye(channels))

    def prepare(self, normals: Normals) -> None:
        """Store the coreset of all patches, or of ``max_patches`` of them."""
        patches = self._drawn_patches(normals)
        if self.settings.whitened:
            self.whitening = whitening_of(patches)
            for block in parts(patches, _ROWS):  # in place: the patches may need gigabytes
                block.copy_(block @ self.whitening)
        size = max(1, math.ceil(self.settings.coreset * len(patches)))
        self.memory = patches[greedy_coreset(_projected(patches), size)]

    def phases(self) -> list[Phase]:
        """No phases: nothing is trained."""
        return []

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """Distance to the nearest patch in memory, at stride 8, at least 0."""
        patches = _patches(self.teacher(images))
        return [self._distances(patches @ self.whitening if self.settings.whitened else patches)]

    def _drawn_patches(self, normals: Normals) -> Tensor:
        drawn: list[Tensor] = []
        seen = 0
        for batch in normals:
            maps = _patches(batch.features)
            total = len(normals) * maps.shape[1] * maps.shape[2]
            most = min(total, self.settings.max_patches)
            patches = maps[batch.covered(_STRIDE)]
            # Of every batch its share, so that all normals are represented.
            count = most * (seen + len(patches)) // total - most * seen // total
            seen += len(patches)
            if count < len(patches):
                patches = patches[torch.randperm(len(patches))[:count].to(patches.device)]
            drawn.append(patches)
        return torch.cat(drawn)

    def _distances(self, patches: Tensor) -> Tensor:
        """Distance of (..., C) patches to the nearest one in memory: (...)."""
        found = []
        for block in parts(patches.flatten(0, -2), _QUERIES):
            nearest = torch.cdist(block, self.memory).argmin(dim=1)
            # Computed again: cdist uses products, which leave few digits of a small distance.
            found.append((block - self.memory[nearest]).norm(dim=-1))
        return torch.cat(found).view(patches.shape[:-1])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict[f"{prefix}memory"]
        self.memory = self.memory.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def whitening_of(patches: Tensor) -> Tensor:
    """The matrix W^T that whitens: the covariance of ``patches @ W^T`` is nearly I.

    Args:
        patches: float32 (N, C).

    Returns:
        float32 (C, C).
    """
    mean = patches.mean(dim=0)
    covariance = patches.new_zeros(patches.shape[1], patches.shape[1], dtype=torch.float64)
    for block in parts(patches, _ROWS):
        centred = (block - mean).double()
        covariance += centred.T @ centred / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    # Without a floor, equal patches, or fewer than channels, would divide by 0.
    shrunk = (values + _SHRINKAGE * values.mean()).clamp_min(_LEAST_VARIANCE)
    matrix: Tensor = vectors / shrunk.sqrt()
    return matrix.float()


def _patches(features: list[Tensor]) -> Tensor:
    """Averaged neighbourhoods of the levels, joined: (B, h, w, C) at the finer level's size."""
    return joined_neighbourhoods(*features[_LEVELS]).permute(0, 2, 3, 1)


def _projected(patches: Tensor) -> Tensor:
    """A random projection to fewer dimensions, which nearly keeps distances."""
    if patches.shape[1] <= _PROJECTED:
        return patches
    matrix = torch.randn(patches.shape[1], _PROJECTED) / math.sqrt(_PROJECTED)
    return patches @ matrix.to(patches)
