"""Reverse distillation: a decoder reconstructs the teacher's features from an embedding.

Deng, Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022,
arXiv 2201.10703, sections 3.2 to 3.4.

With t the teacher's levels and s = decoder(embedding(fusion(t))),

    L = sum over levels of mean 1 - cos(t, s),    map = sum over levels of 1 - cos(t, s), smoothed

MVTec AD with a Wide-ResNet-50-2 teacher, mean of the 15 categories: pixel AUROC 97.8 and AUPRO 93.9
in the paper (and image AUROC 98.5, quoted from memory); image AUROC 98.5 and pixel AUROC 96.9 in
anomalib's port.

As in the authors' code, the loss takes each whole map as one vector, where the paper (equations 1
and 2) writes single positions, as in the map; ``loss`` chooses. For ResNet-18, ResNet-50 and Wide-
ResNet-50 teachers the layers are the authors' as well. Our own, so that two CPU cores reach in tens
of epochs what the authors' recipe takes hundreds for: unless ``optimizer`` is ``adam``, Muon in
small batches with warm-up and cosine decay; and for other teachers a narrow decoder, its widths the
teacher's channel counts rounded up to a power of two, with a linear layer on top of each level, and
an embedding a quarter as wide as its deepest level. A few hundred normals teach a wider one to
rebuild anomalies, too. To prevent this, positions that are rebuilt well already get a tenth of the
gradient (``easy_share``), and the input of the embedding is disturbed in training
(``disturbance``, see ``disturbance.py``). Unless ``memory`` is 0, there is one level more, the
distance of each patch to a memory of normal patches, as in ``patchcore.py``: a defect that the
decoder rebuilds is often far from every normal patch, and the other way round. Unless ``fusion`` is
``published``, the levels are added as ``standardised_by_normals`` says, the memory with the weight
of all others together.
The weights kept are those of the epoch with the lowest loss on held-out normals, the authors' of
the last.

Our own figures are in docs/results.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stillwatch.detectors.base import (
    Batch,
    Detector,
    FusionSettings,
    Normals,
    Phase,
    schedule_of,
)
from stillwatch.detectors.blocks.disturbance import disturbed
from stillwatch.detectors.blocks.maps import (
    cosine_map,
    flattened_cosine_loss,
    mined_share,
    position_cosine_loss,
    with_mined_gradient,
)
from stillwatch.detectors.blocks.optimizers import optimizer_of
from stillwatch.detectors.blocks.patch_memory import MAX_PATCHES, PatchMemory
from stillwatch.errors import DetectorError
from stillwatch.teachers.networks import Teacher

_MINING_RISE = 0.25
"""Share of the training during which the share of easy positions rises from 0."""

_REBUILT_LEVELS = 3
_EMBEDDING_STRIDE = 32
_LEAST_SIDE = 2 * _EMBEDDING_STRIDE
"""Of the longer side, in pixels."""

_Resolution = Literal["halved", "kept", "doubled"]


class ReverseDistillationSettings(FusionSettings):
    """The defaults are ours."""

    epochs: int = Field(60, ge=1, description="passes over the training normals")
    batch_size: int = Field(8, ge=1, description="images per step, at most")
    optimizer: Literal["muon", "adam"] = Field(
        "muon", description="muon with warm-up and decay, or the authors' adam at a constant rate"
    )
    learning_rate: float = Field(0.03, gt=0, lt=1, description="highest rate of the optimizer")
    loss: Literal["flattened", "per_position"] = Field(
        "flattened", description="cosine of whole maps, as released, or of positions, as printed"
    )
    easy_share: float = Field(
        0.9, ge=0, lt=1, description="share of the positions that get a tenth of the gradient"
    )
    disturbance: bool = Field(
        True, description="train on features that are turned and shifted in a window"
    )
    memory: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of the normals' patches that is remembered and compared, as by "
        "patchcore; 0: none",
    )

    @model_validator(mode="after")
    def _adds_what_has_one_unit(self) -> Self:
        if self.fusion == "published" and self.memory > 0:
            raise ValueError(
                "memory needs fusion: standardised, and fusion is published (as in profile paper): "
                "set fusion to standardised, or memory to 0"
            )
        return self


class ReverseDistillation(Detector):
    """Reverse distillation from a one-class bottleneck embedding."""

    name = "reverse_distillation"
    version = 3
    Settings = ReverseDistillationSettings
    quick: ClassVar = {"epochs": 7, "batch_size": 3, "learning_rate": 0.08, "memory": 0.2}
    paper: ClassVar = {
        "epochs": 200,
        "batch_size": 16,
        "optimizer": "adam",
        "learning_rate": 0.005,
        "easy_share": 0.0,
        "disturbance": False,
        "fusion": "published",
        "memory": 0.0,
    }
    exportable = True

    settings: ReverseDistillationSettings
    student: nn.Module
    memory: PatchMemory | None

    def __init__(self, teacher: Teacher, settings: ReverseDistillationSettings) -> None:
        super().__init__(teacher, settings)
        wide = teacher.name.startswith("wide_resnet")
        self.student = EmbeddingAndDecoder(teacher.channels, wide=wide)
        self.memory = PatchMemory(teacher, whitened=True) if settings.memory else None

    def prepare(self, normals: Normals) -> None:
        """Remember patches; raise if the embedding of an image has one position.

        The values of one position have no variance.
        """
        require_two_positions(normals, self.name)
        if self.memory is not None:
            self.memory.remember(normals, share=self.settings.memory, max_patches=MAX_PATCHES)

    def phases(self) -> list[Phase]:
        """One phase: embedding and decoder together."""
        return [
            Phase(
                name="decoder",
                module=self.student,
                loss=self._loss,
                optimizer=optimizer_of(
                    self.settings.optimizer, self.settings.learning_rate, betas=(0.5, 0.999)
                ),
                epochs=self.settings.epochs,
                batch_size=self.settings.batch_size,
                schedule=schedule_of(self.settings.optimizer),
            )
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """1 - cos at strides 4, 8 and 16, in [0, 2]; the distance to the memory, at stride 8."""
        features = self.teacher(images)
        rebuilt = self.student(features)
        levels = [cosine_map(a, b) for a, b in zip(features, rebuilt, strict=True)]
        return levels if self.memory is None else [*levels, self.memory(features)]

    def level_weights(self) -> Sequence[float]:
        """The memory has the weight of the decoder's levels together."""
        rebuilt = (1.0,) * _REBUILT_LEVELS
        return rebuilt if self.memory is None else (*rebuilt, float(_REBUILT_LEVELS))

    def _loss(self, batch: Batch) -> Tensor:
        share = mined_share(self.settings.easy_share, batch.progress, _MINING_RISE)
        disturbs = self.settings.disturbance and self.student.training
        seen = disturbed(batch.features) if disturbs else batch.features
        rebuilt = [
            with_mined_gradient(taught, made, share)
            for taught, made in zip(batch.features, self.student(seen), strict=True)
        ]
        flattened = self.settings.loss == "flattened"
        return (flattened_cosine_loss if flattened else position_cosine_loss)(
            batch.features, rebuilt
        )


def require_two_positions(normals: Normals, name: str) -> None:
    """Raise a ``DetectorError`` if the embedding of one image has less than two positions.

    Args:
        normals: to be trained on.
        name: of the method.
    """
    height, width = next(iter(normals)).images.shape[2:]
    if max(height, width) < _LEAST_SIDE:
        raise DetectorError(
            f"{name}: images of {width}×{height} pixels are too small for its embedding, which has "
            f"a position for each {_EMBEDDING_STRIDE}×{_EMBEDDING_STRIDE} pixels and needs two. "
            f"Raise images.size or images.scale until the longer side is {_LEAST_SIDE} pixels or "
            "more."
        )


class EmbeddingAndDecoder(nn.Module):
    """Multi-scale fusion, one-class embedding and the decoder that mirrors the teacher.

    Args:
        channels: of the teacher's levels at strides 4, 8 and 16.
        wide: bottleneck blocks of twice the width, as in Wide-ResNets.
    """

    def __init__(self, channels: tuple[int, ...], *, wide: bool = False) -> None:
        super().__init__()
        layout = _layout(channels, wide=wide)
        shallow, middle, deep = layout.widths
        blocks, narrowing = layout.decoder_blocks, layout.narrowing
        self.fuse_shallow = nn.Sequential(
            _conv_norm_relu(channels[0], middle, 3, 2), _conv_norm_relu(middle, deep, 3, 2)
        )
        self.fuse_middle = _conv_norm_relu(channels[1], deep, 3, 2)
        self.fuse_deep = (
            nn.Identity() if channels[2] == deep else _conv_norm_relu(channels[2], deep, 1, 1)
        )
        self.embed = _stage(
            3 * deep, layout.embedding_width, "halved", layout.embedding_blocks, narrowing
        )
        self.decode_deep = _stage(layout.embedding_width, deep, "doubled", blocks[0], narrowing)
        self.decode_middle = _stage(deep, middle, "doubled", blocks[1], narrowing)
        self.decode_shallow = _stage(middle, shallow, "doubled", blocks[2], narrowing)
        self.heads = nn.ModuleList(
            nn.Identity() if width == count else nn.Conv2d(width, count, 1)
            for width, count in zip(layout.widths, channels, strict=True)
        )
        self._initialise()

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Reconstruct the teacher's feature maps, in the same shapes."""
        fused = torch.cat(
            [
                self.fuse_shallow(features[0]),
                self.fuse_middle(features[1]),
                self.fuse_deep(features[2]),
            ],
            dim=1,
        )
        deep = self.decode_deep(self.embed(fused))
        middle = self.decode_middle(deep)
        shallow = self.decode_shallow(middle)
        return [head(x) for head, x in zip(self.heads, (shallow, middle, deep), strict=True)]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@dataclass(frozen=True)
class _Layout:
    """Sizes of embedding and decoder."""

    widths: tuple[int, int, int]
    """At strides 4, 8 and 16."""
    embedding_width: int
    """At stride 32."""
    embedding_blocks: int
    decoder_blocks: tuple[int, int, int]
    """At strides 16, 8 and 4."""
    narrowing: int | None = None
    """What the inner width of bottleneck blocks is divided by; None: basic blocks."""


def _layout(channels: tuple[int, ...], *, wide: bool) -> _Layout:
    shallow, middle, deep = (1 << (count - 1).bit_length() for count in channels)
    widths = (shallow, middle, deep)
    if widths != channels:
        return _Layout(widths, deep // 4, 2, (2, 2, 1))
    if deep < 1024:  # ResNet-18
        return _Layout(widths, 2 * deep, 2, (2, 2, 2))
    return _Layout(widths, 2 * deep, 3, (3, 4, 6), narrowing=2 if wide else 4)


class _ResidualBlock(nn.Module):
    """A ResNet block; ``narrowing`` divides the inner width of a bottleneck, None: basic block."""

    def __init__(
        self, inputs: int, outputs: int, resolution: _Resolution, narrowing: int | None
    ) -> None:
        super().__init__()
        if narrowing is None:
            self.body = nn.Sequential(
                _spatial(inputs, outputs, resolution),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
                _spatial(outputs, outputs, "kept"),
                nn.BatchNorm2d(outputs),
            )
        else:
            width = outputs // narrowing
            self.body = nn.Sequential(
                _conv_norm_relu(inputs, width, 1, 1),
                _spatial(width, width, resolution),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
        self.shortcut = _shortcut(inputs, outputs, resolution)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _stage(
    inputs: int, outputs: int, resolution: _Resolution, blocks: int, narrowing: int | None
) -> nn.Sequential:
    return nn.Sequential(
        _ResidualBlock(inputs, outputs, resolution, narrowing),
        *(_ResidualBlock(outputs, outputs, "kept", narrowing) for _ in range(blocks - 1)),
    )


def _spatial(inputs: int, outputs: int, resolution: _Resolution) -> nn.Module:
    if resolution == "doubled":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)
    stride = 2 if resolution == "halved" else 1
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _shortcut(inputs: int, outputs: int, resolution: _Resolution) -> nn.Module:
    if resolution == "kept":
        return nn.Identity()
    if resolution == "doubled":
        resample: nn.Module = nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)
    else:
        resample = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
    return nn.Sequential(resample, nn.BatchNorm2d(outputs))


def _conv_norm_relu(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
