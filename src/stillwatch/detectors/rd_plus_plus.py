"""RD++: reverse distillation from projected features, taught with views that have simplex noise.

Tien, Nguyen, Tran, Huy, Duong, Nguyen, Truong, "Revisiting Reverse Distillation for Anomaly
Detection", IEEE/CVF CVPR 2023, section 3; where the code of the authors says more or otherwise
(tientrandinh/Revisiting-Reverse-Distillation at 7f2ceb7), the code. The teacher, the embedding, the
decoder and the map are those of ``reverse_distillation``; the embedding sees P(t) in place of the
teacher's features t. With n the features of a noisy view of the same image, p = P(t), q = P(n),
s = decoder(embedding(fusion(p))), L_distill the loss of reverse distillation, i and j different
images of a step, and every term summed over the levels,

    L = L_distill(t, s) + 0.2 (L_transport + 0.01 L_reconstruction + 0.1 L_contrast) / 1.11
    L_transport = mean over pairs of S(p_i, p_j)
    L_reconstruction = mean over positions of 1 - cos(p, q)
    L_contrast = mean over images of max(0, cos(n, p) - 0.5), each whole map being one vector

where S is the debiased Sinkhorn divergence.

MVTec AD with a Wide-ResNet-50-2 teacher, mean of the 15 categories, quoted from memory: image AUROC
99.4, pixel AUROC 98.3 and AUPRO 95.0. The epoch was chosen on the test set.

The released L_transport compares a batch with a permutation of itself, as two sets of B points:
these are equal, and S is 0 whatever the projections are. Here the points are the l2-normalised
channel vectors of an image at random positions, and S compares an image with another. The
authors train 10 to 300 epochs, by category; the profile ``paper`` has the mean, 200. Their code
drops the gradient of every second batch, which is not imitated. Noise is two-dimensional and the
same in the three channels; theirs changes a little from channel to channel. Convolutions of P have
no bias, which the instance normalisation after it would remove.

Our own, besides what ``reverse_distillation`` says of itself: only ``noisy_share`` of the images of
a step, but at least two, have a noisy view, since each needs a pass of the teacher, and the loss of
the projections is of these images. The default is a quarter of them, and fewer epochs than
``reverse_distillation`` has, so that a training takes about as long.

Our own figures are in docs/results.md; those without a memory are in docs/tried.md.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.detectors.base import Batch, Phase
from stillwatch.detectors.blocks.maps import position_cosine_loss
from stillwatch.detectors.blocks.optimizers import optimizer_of
from stillwatch.detectors.reverse_distillation import (
    ReverseDistillation,
    ReverseDistillationSettings,
)
from stillwatch.teachers.networks import Teacher

_TRANSPORT, _RECONSTRUCTION, _CONTRAST = (weight / 1.11 for weight in (1, 0.01, 0.1))
"""Weights of the terms of the loss of the projections."""
_MARGIN = 0.5

_POINTS = 64
"""Most positions of a map whose channel vectors are compared by optimal transport."""
_BLURS = (1.6, 0.8, 0.4, 0.2, 0.1, 0.05)
"""Lengths below which optimal transport does not tell points apart, one for each iteration. Two
points on the unit sphere are at most 2 apart."""

_BOX_SIDES = (10, 31)
"""Least and largest side of the box with noise, in pixels."""
_NOISE = 0.2
"""Factor of the noise, whose first octave is within about [-1, 1]."""
_OCTAVES, _PERIOD, _PERSISTENCE = 6, 32, 0.6
"""Number of octaves, period of the first in pixels, amplitude of an octave relative to the last."""
_SKEW, _UNSKEW = (math.sqrt(3) - 1) / 2, (3 - math.sqrt(3)) / 6
"""Turn squares into pairs of equilateral triangles, and back."""
_AMPLITUDE = 99.2
"""For unit gradients: the noise is then within [-1, 1]."""


class RDPlusPlusSettings(ReverseDistillationSettings):
    """The defaults are ours, but for the authors' projection_weight."""

    epochs: int = Field(40, ge=1, description="passes over the training normals")
    projection_learning_rate: float = Field(
        0.03, gt=0, lt=1, description="highest rate of the optimizer for the projections"
    )
    projection_weight: float = Field(0.2, ge=0, description="of the loss of the projections")
    noisy_share: float = Field(
        0.25, gt=0, le=1, description="share of the images of a step that have a noisy view"
    )


class RDPlusPlus(ReverseDistillation):
    """Reverse distillation from projected features."""

    name = "rd_plus_plus"
    version = 2
    Settings = RDPlusPlusSettings
    paper: ClassVar = {
        **ReverseDistillation.paper,
        "projection_learning_rate": 0.001,
        "noisy_share": 1.0,
    }

    settings: RDPlusPlusSettings
    student: "ProjectedStudent"

    def __init__(self, teacher: Teacher, settings: RDPlusPlusSettings) -> None:
        super().__init__(teacher, settings)
        self.student = ProjectedStudent(teacher.channels, self.student)

    def phases(self) -> list[Phase]:
        """One phase: projections, embedding and decoder together."""
        return [replace(phase, optimizer=self._optimizer) for phase in super().phases()]

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        settings = self.settings
        projecting = set(map(id, self.student.projections.parameters()))
        parts: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
        for parameter in parameters:
            parts[id(parameter) in projecting].append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": parts[0]},
            {"params": parts[1], "lr": settings.projection_learning_rate},
        ]
        return optimizer_of(settings.optimizer, settings.learning_rate, betas=(0.5, 0.999))(groups)

    def _loss(self, batch: Batch) -> Tensor:
        """L; on held-out normals L_distill only, which is what inspection measures."""
        loss = super()._loss(batch)
        if not self.student.training:
            return loss
        # Two at least: the transport is from one image to another.
        wanted = max(2, math.ceil(self.settings.noisy_share * len(batch.images)))
        count = min(len(batch.images), wanted)
        with torch.no_grad():
            noisy = self.teacher(with_simplex_noise(batch.images[:count]))
        projected = self.student.project([level[:count] for level in batch.features])
        cleaned = self.student.project(noisy)
        return loss + self.settings.projection_weight * projection_loss(projected, noisy, cleaned)


class ProjectedStudent(nn.Module):
    """Reconstructs the teacher's features from projections of them.

    Args:
        channels: of the teacher's levels at strides 4, 8 and 16.
        rebuild: embedding and decoder.
    """

    def __init__(self, channels: tuple[int, ...], rebuild: nn.Module) -> None:
        super().__init__()
        self.projections = nn.ModuleList(projection(count) for count in channels)
        self.rebuild = rebuild

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Reconstruct the teacher's feature maps, in the same shapes."""
        rebuilt: list[Tensor] = self.rebuild(self.project(features))
        return rebuilt

    def project(self, features: list[Tensor]) -> list[Tensor]:
        """P: feature maps (B, C_l, h_l, w_l) per level, in the same shapes."""
        return [project(level) for project, level in zip(self.projections, features, strict=True)]


def projection(channels: int) -> nn.Sequential:
    """Four convolutions, to a quarter of the channels and back: (B, C, h, w), the same shape."""
    widths = (channels, channels // 2, channels // 4, channels // 2, channels)
    return nn.Sequential(
        *(layer for before, after in pairwise(widths) for layer in _convolution(before, after))
    )


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.InstanceNorm2d(outputs),
        nn.LeakyReLU(inplace=True),
    )


def projection_loss(projected: list[Tensor], noisy: list[Tensor], cleaned: list[Tensor]) -> Tensor:
    """The loss of the projections: (B, C_l, h_l, w_l) per level each -> scalar.

    Args:
        projected: projections p of the features of normals.
        noisy: features n of their noisy views.
        cleaned: projections q of these.
    """
    return (
        _TRANSPORT * transport_loss(projected)
        + _RECONSTRUCTION * position_cosine_loss(projected, cleaned)
        + _CONTRAST * contrast_loss(noisy, projected)
    )


def contrast_loss(noisy: list[Tensor], projected: list[Tensor]) -> Tensor:
    """Sum over levels of the batch mean of max(0, cos - 0.5), each whole map being one vector."""
    cosines = [
        F.cosine_similarity(a.float().flatten(1), b.float().flatten(1))
        for a, b in zip(noisy, projected, strict=True)
    ]
    return torch.stack([(level - _MARGIN).clamp_min(0).mean() for level in cosines]).sum()


def transport_loss(projected: list[Tensor]) -> Tensor:
    """Sum over levels of the mean Sinkhorn divergence of each image from the next one."""
    divergences = []
    for level in projected:
        vectors = F.normalize(level.float().flatten(2), dim=1).transpose(1, 2)
        chosen = torch.randperm(vectors.shape[1])[:_POINTS].to(vectors.device)
        points = vectors[:, chosen]
        divergences.append(sinkhorn_divergence(points, points.roll(1, dims=0)).mean())
    return torch.stack(divergences).sum()


def sinkhorn_divergence(x: Tensor, y: Tensor) -> Tensor:
    """How far apart two sets of points with equal weights are; 0 for permutations of one another.

    Feydy et al., "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences",
    AISTATS 2019, arXiv 1810.08278, with half the squared distance as the cost, and with the costs
    of the plans alone, without their entropy, which has the same gradient.

    Args:
        x: float (B, N, D).
        y: float (B, M, D).

    Returns:
        (B,).
    """
    return _transport_cost(x, y) - (_transport_cost(x, x) + _transport_cost(y, y)) / 2


def _transport_cost(x: Tensor, y: Tensor) -> Tensor:
    cost = torch.cdist(x, y).square() / 2
    return (_plan(cost.detach()) * cost).sum(dim=(1, 2))


def _plan(cost: Tensor) -> Tensor:
    """Entropic transport plan for a cost, (B, N, M) both; each column sums to 1 / M."""
    rows, columns = cost.shape[1:]
    by_row, by_column = torch.zeros_like(cost[:, :, :1]), torch.zeros_like(cost[:, :1])
    for blur in _BLURS:
        heat = blur**2
        log_mean = ((by_column - cost) / heat).logsumexp(dim=2, keepdim=True) - math.log(columns)
        by_row = -heat * log_mean
        log_mean = ((by_row - cost) / heat).logsumexp(dim=1, keepdim=True) - math.log(rows)
        by_column = -heat * log_mean
    return ((by_row + by_column - cost) / heat).exp() / (rows * columns)


def with_simplex_noise(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) with simplex noise in one random box each; not clipped.

    Random numbers come from torch's global generator.
    """
    noisy = images.clone()
    least, most = _BOX_SIDES
    noise = _NOISE * simplex_noise(len(images), most).to(images)
    for image, of_image in zip(noisy, noise, strict=True):
        height, width = torch.randint(least, most + 1, (2,)).tolist()
        top, left = (
            int(torch.randint(side - part + 1, ()))
            for side, part in zip(image.shape[1:], (height, width), strict=True)
        )
        image[:, top : top + height, left : left + width] += of_image[:height, :width]
    return noisy


def simplex_noise(count: int, side: int) -> Tensor:
    """Fractal simplex noise, (count, side, side): octaves of half the period and less amplitude."""
    pixels = torch.arange(float(side))
    points = torch.stack(torch.meshgrid(pixels, pixels, indexing="ij"))
    noise = torch.zeros(count, side, side)
    for octave in range(_OCTAVES):
        angles = 2 * math.pi * torch.rand(count, 2 * side, 2 * side)
        noise += _PERSISTENCE**octave * simplex_octave(points * 2**octave / _PERIOD, angles)
    return noise


def simplex_octave(points: Tensor, angles: Tensor) -> Tensor:
    """Simplex noise, in [-1, 1].

    Gustavson, "Simplex noise demystified", 2005, after Perlin, 2001: each corner of the triangle
    around a point at distance r adds max(0, 1/2 - r^2)^4 times the slope of its gradient.

    Args:
        points: coordinates (2, h, w), at least 0.
        angles: in radians, of the gradients at the corners of the lattice, (B, n, n).

    Returns:
        (B, h, w).
    """
    cell = (points + _SKEW * points.sum(dim=0)).floor()
    inside = points - cell + _UNSKEW * cell.sum(dim=0)
    below = inside[0] > inside[1]
    middle = torch.stack([below, ~below]).to(points)
    noise = torch.zeros(len(angles), *points.shape[1:])
    for corner in (torch.zeros_like(cell), middle, torch.ones_like(cell)):
        offset = inside - corner + _UNSKEW * corner.sum(dim=0)
        row, column = (cell + corner).long()
        angle = angles[:, row, column]
        slope = angle.cos() * offset[0] + angle.sin() * offset[1]
        noise += (0.5 - offset.square().sum(dim=0)).clamp_min(0) ** 4 * slope
    return _AMPLITUDE * noise
