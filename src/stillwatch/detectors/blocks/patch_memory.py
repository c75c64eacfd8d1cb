"""A memory of normal patches, and the distance of an image's patches to it.

Roth et al., "PatchCore", CVPR 2022, arXiv 2106.08265, section 3: see ``patchcore.py``.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stillwatch.detectors.base import Normals
from stillwatch.detectors.blocks.coreset import greedy_coreset
from stillwatch.detectors.blocks.maps import joined_neighbourhoods, parts
from stillwatch.teachers.networks import Teacher

MAX_PATCHES = 250_000
"""That a memory is chosen from, unless a method's settings say otherwise."""
_LEVELS = slice(1, 3)
_STRIDE = 8
"""Of the finer level, in pixels."""
_PROJECTED = 128
_QUERIES = 4096
_ROWS = 16_384
"""Patches that are whitened at a time."""
_SHRINKAGE = 0.1
_LEAST_VARIANCE = 1e-12


class PatchMemory(nn.Module):
    """A coreset of the normals' patches, at strides 8 and 16 of the teacher.

    Args:
        teacher: whose features are remembered.
        whitened: divide out how much and how jointly the features of normals vary.
    """

    patches: Tensor
    """Of normals: float32 (M, C)."""
    whitening: Tensor
    """float32 (C, C), if whitened."""

    def __init__(self, teacher: Teacher, *, whitened: bool) -> None:
        super().__init__()
        self.whitened = whitened
        channels = sum(teacher.channels[_LEVELS])
        self.register_buffer("patches", torch.zeros(1, channels))
        if whitened:
            self.register_buffer("whitening", torch.eye(channels))

    def remember(self, normals: Normals, *, share: float, max_patches: int) -> None:
        """Store a coreset of the normals' patches.

        Args:
            normals: their padding is not remembered.
            share: of the patches, in (0, 1].
            max_patches: the coreset is chosen from so many, at most, drawn at random.
        """
        patches = _drawn(normals, max_patches)
        if self.whitened:
            self.whitening = whitening_of(patches)
            for block in parts(patches, _ROWS):  # in place: the patches may need gigabytes
                block.copy_(block @ self.whitening)
        size = max(1, math.ceil(share * len(patches)))
        self.patches = patches[greedy_coreset(_projected(patches), size)]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Distance of each patch to the nearest one in memory.

        Args:
            features: the teacher's, float32 (B, C_l, H/s_l, W/s_l) at strides 4, 8 and 16.

        Returns:
            float32 (B, H/8, W/8), at least 0.
        """
        patches = _patches(features)
        return self._distances(patches @ self.whitening if self.whitened else patches)

    def _distances(self, patches: Tensor) -> Tensor:
        found = []
        for block in parts(patches.flatten(0, -2), _QUERIES):
            nearest = torch.cdist(block, self.patches).argmin(dim=1)
            # Computed again: cdist uses products, which leave few digits of a small distance.
            found.append((block - self.patches[nearest]).norm(dim=-1))
        return torch.cat(found).view(patches.shape[:-1])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict[f"{prefix}patches"]
        self.patches = self.patches.new_empty(stored.shape)
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


def _drawn(normals: Normals, max_patches: int) -> Tensor:
    """At most ``max_patches`` of the normals' patches, of every batch its share: (N, C)."""
    drawn: list[Tensor] = []
    seen = 0
    for batch in normals:
        maps = _patches(batch.features)
        total = len(normals) * maps.shape[1] * maps.shape[2]
        most = min(total, max_patches)
        patches = maps[batch.covered(_STRIDE)]
        # Of every batch its share, so that all normals are represented.
        count = most * (seen + len(patches)) // total - most * seen // total
        seen += len(patches)
        if count < len(patches):
            patches = patches[torch.randperm(len(patches))[:count].to(patches.device)]
        drawn.append(patches)
    return torch.cat(drawn)


def _patches(features: list[Tensor]) -> Tensor:
    """Averaged neighbourhoods of the levels, joined: (B, h, w, C) at the finer level's size."""
    return joined_neighbourhoods(*features[_LEVELS]).permute(0, 2, 3, 1)


def _projected(patches: Tensor) -> Tensor:
    """A random projection to fewer dimensions, which nearly keeps distances."""
    if patches.shape[1] <= _PROJECTED:
        return patches
    matrix = torch.randn(patches.shape[1], _PROJECTED) / math.sqrt(_PROJECTED)
    return patches @ matrix.to(patches)
