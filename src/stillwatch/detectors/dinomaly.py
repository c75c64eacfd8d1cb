"""Dinomaly: a transformer rebuilds a vision transformer's tokens from a noisy bottleneck.

Guo, Lu, Zhang, Chen, Li, Liao, "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised
Anomaly Detection", CVPR 2025, arXiv 2405.14325, section 3.

The teacher's eight middle blocks are averaged in two groups, the four shallow and the four deep
ones: t_1 and t_2 (loose constraint). A bottleneck with dropout and eight blocks with linear
attention,

    attention(q, k, v) = phi(q) (phi(k)^T v) / (phi(q) sum phi(k)),    phi(x) = ELU(x) + 1,

rebuild them from their mean: s_2 is the mean of the first four blocks, s_1 of the last four. Then

    L = mean over groups of mean 1 - cos(t, s),    map = sum over groups of 1 - cos(t, s), smoothed

where the loss takes each whole map as one vector. The positions that are rebuilt best get a tenth
of the gradient (loose loss): none at first, 90 % after a fifth of the training.

MVTec AD with DINOv2-B/14 (with registers), one detector per category, as anomalib reports it: image
AUROC 99.7, pixel AUROC 98.4. The authors train one detector of all categories: image AUROC 99.6.

The teacher must be a vision transformer, as a rule ``vit_small_patch14_reg4_dinov2.lvd142m`` or
``vit_base_patch14_reg4_dinov2.lvd142m``. **Their weights were not at hand: this module was tested
with small transformers of random weights only**, and docs/results.md has no measurement of it.

Loss, layers, initial weights, optimiser and schedule are the authors', and with ``fusion:
published`` the fusion; the profile ``laptop`` has fewer steps. Our own: with ``fusion:
standardised`` the groups are added as ``standardised_by_normals`` says; the decoder sees the tokens
of patches only, the authors' those of class and registers, too; the teacher sees images at 14/16 of
their size (``images.size: 448`` gives the authors' 392 pixels) as a whole, in place of a crop; the
image's score is the maximum of the map, theirs the mean of its highest hundredth; and their
Gaussian of sigma 4 is cut to 5 × 5 pixels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.detectors.base import Batch, Detector, FusionSettings, Phase
from stillwatch.detectors.blocks.maps import (
    cosine_map,
    flattened_cosine_loss,
    mined_share,
    with_mined_gradient,
)
from stillwatch.detectors.blocks.optimizers import StableAdamW
from stillwatch.teachers.networks import Teacher

_STRIDE = 16
_GROUPS = 2
_BLOCKS = 8
_HEAD_WIDTH = 64
_MLP_RATIO = 4
_DROPOUT = 0.2
_INITIAL_DEVIATION = 0.01
_LARGEST_INITIAL = 0.03
_LEAST_WEIGHT = 1e-6
"""Least sum of attention weights."""

# Shares of the training. The authors have 5,000 steps for one category.
_WARM_UP = 0.02
_MINING_RISE = 0.2
_EASY_SHARE = 0.9
_LAST_RATE = 0.1


class DinomalySettings(FusionSettings):
    """The defaults are the authors' but for the number of steps and their size."""

    steps: int = Field(100, ge=1, description="optimiser steps, at least one pass")
    batch_size: int = Field(8, ge=1, description="images per step, at most")
    learning_rate: float = Field(0.002, gt=0, lt=1, description="highest rate of the optimizer")


class Dinomaly(Detector):
    """Reverse distillation of a vision transformer with a noisy bottleneck."""

    name = "dinomaly"
    version = 1
    Settings = DinomalySettings
    quick: ClassVar = {"steps": 12, "batch_size": 3, "learning_rate": 0.02}
    paper: ClassVar = {"steps": 5000, "batch_size": 16, "fusion": "published"}
    exportable = True

    settings: DinomalySettings

    def __init__(self, teacher: Teacher, settings: DinomalySettings) -> None:
        super().__init__(teacher, settings)
        self.student = BottleneckAndDecoder(teacher.channels[0])

    @classmethod
    def teacher_strides(cls, teacher_name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """Two levels of a vision transformer: its middle blocks in two groups."""
        return (_STRIDE,) * _GROUPS

    def phases(self) -> list[Phase]:
        """One phase: bottleneck and decoder together."""
        return [
            Phase(
                name="decoder",
                module=self.student,
                loss=self._loss,
                optimizer=partial(StableAdamW, lr=self.settings.learning_rate),
                epochs=1,
                least_steps=self.settings.steps,
                batch_size=self.settings.batch_size,
                schedule=warm_up_and_cosine_to_a_tenth,
                keeps_best_epoch=False,
            )
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """1 - cos of both groups at stride 16, in [0, 2]."""
        features = self.teacher(images)
        return [
            cosine_map(taught, rebuilt)
            for taught, rebuilt in zip(features, self.student(features), strict=True)
        ]

    def _loss(self, batch: Batch) -> Tensor:
        share = mined_share(_EASY_SHARE, batch.progress, _MINING_RISE)
        rebuilt = [
            with_mined_gradient(taught, made, share)
            for taught, made in zip(batch.features, self.student(batch.features), strict=True)
        ]
        return flattened_cosine_loss(batch.features, rebuilt) / _GROUPS


def warm_up_and_cosine_to_a_tenth(progress: float) -> float:
    """Linear rise over a fiftieth of the training, then half a cosine from 1 down to a tenth."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    angle = math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(angle))


class BottleneckAndDecoder(nn.Module):
    """Rebuilds two groups of feature maps from their mean.

    Args:
        width: channels of both.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(nn.Dropout(_DROPOUT), *_mlp(width, _DROPOUT))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(_BLOCKS))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(
                    module.weight, 0, _INITIAL_DEVIATION, -_LARGEST_INITIAL, _LARGEST_INITIAL
                )
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(B, C, h, w) of the shallow and of the deep group to the same shapes."""
        mean = torch.stack(list(features)).mean(dim=0)
        tokens = self.bottleneck(mean.flatten(2).transpose(1, 2))
        outputs = []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        size = _BLOCKS // _GROUPS
        groups = [outputs[first : first + size] for first in range(0, _BLOCKS, size)]
        return [
            torch.stack(group).mean(dim=0).transpose(1, 2).reshape(mean.shape)
            for group in reversed(groups)
        ]


class _Block(nn.Module):
    """A transformer block: (B, n, C) -> (B, n, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width, eps=1e-8), LinearAttention(width))
        self.mlp = nn.Sequential(nn.LayerNorm(width, eps=1e-8), *_mlp(width, 0.0))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        mixed: Tensor = tokens + self.mlp(tokens)
        return mixed


class LinearAttention(nn.Module):
    """Attention whose weights are products of phi(q) and phi(k): no softmax that could focus.

    Args:
        width: of the tokens; there is a head for each 64 of it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _HEAD_WIDTH)
        self.joint = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens: (B, n, C) -> (B, n, C)."""
        split = self.joint(tokens).unflatten(2, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind()
        queries, keys = positive(queries), positive(keys)
        sums = queries @ keys.sum(dim=2)[..., None]
        mixed = queries @ (keys.transpose(2, 3) @ values) / sums.clamp_min(_LEAST_WEIGHT)
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended


def positive(values: Tensor) -> Tensor:
    """ELU(x) + 1, without its cancellation far below 0."""
    return values.clamp_max(0).exp() + F.relu(values)


def _mlp(width: int, dropout: float) -> Iterable[nn.Module]:
    return (
        nn.Linear(width, _MLP_RATIO * width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(_MLP_RATIO * width, width),
        nn.Dropout(dropout),
    )
