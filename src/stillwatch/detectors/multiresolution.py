"""Multiresolution knowledge distillation: a compact cloner imitates a pretrained network.

Salehi, Sadjadi, Baselizadeh, Rohban, Rabiee, "Multiresolution Knowledge Distillation for Anomaly
Detection", CVPR 2021, arXiv 2011.11108, section 3.

With a and b the source's and the cloner's activations at a critical point,

    L_val = sum over points of mean (a - b)^2
    L_dir = sum over points of 1 - cos(a, b), each image's whole activation being one vector
    L     = L_val + lambda L_dir, lambda = L_val / L_dir at the start

lambda is the paper's; the authors' code has L_dir + 0.5 L_val for MVTec AD. With a VGG source,
cloner and critical points (the outputs of the pools 2 to 5, of which detection uses 3 to 5) are
those of the authors' code. Our own: any other teacher gives its levels at strides 4, 8 and 16, and
the cloner, having no ReLU there, may be signed like them; unless ``optimizer`` is ``adam``, Muon in
small batches with warm-up and cosine decay; images are normalised as the source was trained, where
the code leaves MVTec AD as it is; and the verdict needs a map that is one forward pass: L at each
position instead of each image, smoothed by a Gaussian and, unless ``fusion`` is ``published``,
added as ``standardised_by_normals`` says. What is kept is the epoch with the lowest loss on
held-out normals.

The image score is the maximum of the map, not L of the image, and the map is no gradient of L: L is
taken over the whole image, of which a defect is a small part. On MVTec AD *screw*, with one trained
cloner, L had an image AUROC of 0.451, and the maximum of the summed map 0.763.

Our own figures are in docs/results.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.detectors.base import Detector, FusionSettings, Normals, Phase, schedule_of
from stillwatch.detectors.blocks.maps import cosine_distance
from stillwatch.detectors.blocks.optimizers import optimizer_of
from stillwatch.teachers.networks import STRIDES, Teacher

_NARROW = 16
"""Width of the layers of a compact cloner that are not compared."""
_COMPACT_VGG = (
    (_NARROW, _NARROW),
    (_NARROW, 128),
    (_NARROW, _NARROW, 256),
    (_NARROW, _NARROW, 512),
    (_NARROW, _NARROW, 512),
)
"""Widths of the layers between the pools, for every VGG."""


class MultiresolutionSettings(FusionSettings):
    """The defaults are ours. The authors also have images.size 128 and a VGG-16 source."""

    epochs: int = Field(40, ge=1, description="passes over the training normals")
    batch_size: int = Field(8, ge=1, description="images per step, at most")
    optimizer: Literal["muon", "adam"] = Field(
        "muon", description="muon with warm-up and decay, or the authors' adam at a constant rate"
    )
    learning_rate: float = Field(0.03, gt=0, lt=1, description="highest rate of the optimizer")
    cloner: Literal["compact", "equal"] = Field(
        "compact", description="16 channels wherever nothing is compared, or the source's widths"
    )


class Multiresolution(Detector):
    """Multiresolution knowledge distillation (MKD)."""

    name = "multiresolution"
    version = 2
    Settings = MultiresolutionSettings
    quick: ClassVar = {"epochs": 5, "batch_size": 3}
    paper: ClassVar = {
        "epochs": 601,
        "batch_size": 64,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "fusion": "published",
    }
    exportable = True

    settings: MultiresolutionSettings
    balance: Tensor

    def __init__(self, teacher: Teacher, settings: MultiresolutionSettings) -> None:
        super().__init__(teacher, settings)
        self._pools = _is_vgg(teacher.name)
        self.cloner = _cloner(teacher, settings.cloner)
        self.register_buffer("balance", torch.ones(()))

    @classmethod
    def teacher_strides(cls, teacher_name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """With a VGG, the levels before the pools 2 to 5."""
        return (2, *STRIDES) if _is_vgg(teacher_name) else STRIDES

    def prepare(self, normals: Normals) -> None:
        """Set lambda so that both losses begin with the same weight."""
        values, directions = [], []
        for batch in normals:
            pairs = self._compared(batch.features, batch.images)
            values.append(value_loss(pairs).mean())
            directions.append(direction_loss(pairs).mean())
        self.balance = torch.stack(values).mean() / torch.stack(directions).mean()

    def phases(self) -> list[Phase]:
        """One phase: the cloner learns all critical points at once."""
        return [
            Phase(
                name="cloner",
                module=self.cloner,
                loss=lambda batch: self._loss(batch.features, batch.images).mean(),
                optimizer=optimizer_of(self.settings.optimizer, self.settings.learning_rate),
                epochs=self.settings.epochs,
                batch_size=self.settings.batch_size,
                schedule=schedule_of(self.settings.optimizer),
            )
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """The loss at each position of the last three points, at least 0."""
        return [
            (a - b).square().mean(dim=1) + self.balance * cosine_distance(a, b)
            for a, b in self._detecting(images)
        ]

    def _loss(self, features: list[Tensor], images: Tensor) -> Tensor:
        pairs = self._compared(features, images)
        return value_loss(pairs) + self.balance * direction_loss(pairs)

    def _detecting(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        return self._compared(self.teacher(images), images)[-3:]

    def _compared(self, features: list[Tensor], images: Tensor) -> list[tuple[Tensor, Tensor]]:
        points = [F.max_pool2d(x, 2) for x in features] if self._pools else features
        return list(zip(points, self.cloner(self.teacher.normalise(images)), strict=True))


def value_loss(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over the points of the mean squared difference of each image: (B,)."""
    return torch.stack([(a.float() - b.float()).square().flatten(1).mean(1) for a, b in pairs]).sum(
        dim=0
    )


def direction_loss(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over the points of 1 - cos of each image's flattened activations: (B,)."""
    return torch.stack(
        [1 - F.cosine_similarity(a.float().flatten(1), b.float().flatten(1)) for a, b in pairs]
    ).sum(dim=0)


class Cloner(nn.Module):
    """Convolutions in blocks between pools; the outputs of the last blocks are compared.

    Args:
        blocks: widths of the layers of each block.
        compared: how many of the last blocks are compared.
        pooled: compare what a pool and a ReLU make of a block, as with a VGG; otherwise the
            block's own output, which then may be negative.
    """

    def __init__(self, blocks: Sequence[Sequence[int]], *, compared: int, pooled: bool) -> None:
        super().__init__()
        inputs = [3, *(block[-1] for block in blocks[:-1])]
        self.blocks = nn.ModuleList(
            _block(count, widths, ends_in_relu=pooled)
            for count, widths in zip(inputs, blocks, strict=True)
        )
        self._compared = compared
        self._pooled = pooled

    def forward(self, x: Tensor) -> list[Tensor]:
        """Activations (B, C, h, w) at the critical points, from shallow to deep."""
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x if index == 0 or self._pooled else F.max_pool2d(x, 2))
            if self._pooled:
                x = F.max_pool2d(x, 2)
            outputs.append(x)
        return outputs[-self._compared :]


def _is_vgg(teacher_name: str) -> bool:
    return teacher_name.startswith("vgg")


def _widths(vgg: nn.Module) -> list[list[int]]:
    """Of a VGG's convolutions, between its pools."""
    blocks: list[list[int]] = [[]]
    for module in vgg.children():
        if isinstance(module, nn.MaxPool2d):
            blocks.append([])
        elif isinstance(module, nn.Conv2d):
            blocks[-1].append(module.out_channels)
    return blocks


def _cloner(teacher: Teacher, size: Literal["compact", "equal"]) -> nn.Module:
    if _is_vgg(teacher.name):
        widths = _COMPACT_VGG if size == "compact" else _widths(teacher.network)
        return Cloner(widths, compared=4, pooled=True)
    if size == "equal":
        return teacher.untrained_network()
    stem = [(_NARROW, _NARROW)] * 2
    blocks = [*stem, *((_NARROW, _NARROW, count) for count in teacher.channels)]
    return Cloner(blocks, compared=len(teacher.channels), pooled=False)


def _block(inputs: int, widths: Sequence[int], *, ends_in_relu: bool) -> nn.Sequential:
    """Convolution, normalisation, ReLU; the last convolution is not normalised."""
    layers: list[nn.Module] = []
    for number, width in enumerate(widths, start=1):
        convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        nn.init.xavier_uniform_(convolution.weight)
        layers.append(convolution)
        last = number == len(widths)
        if not last:
            layers.append(nn.BatchNorm2d(width))
        if not last or ends_in_relu:
            layers.append(nn.ReLU())
        inputs = width
    return nn.Sequential(*layers)
