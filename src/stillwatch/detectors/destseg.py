"""DeSTSeg: a denoising student, and a network that segments where student and teacher differ.

Zhang, Li, Li, Huang, Shan, Chen, "DeSTSeg: Segmentation Guided Denoising Student-Teacher for
Anomaly Detection", CVPR 2023, arXiv 2211.11317, sections 3.1 to 3.4.

The student S sees an image x with a synthetic defect and must give the features that the teacher T
has of the same image without. With t = T(x), s = S(x with a defect) and k the levels at strides 4,
8 and 16,

    L_student = sum over k of mean 1 - cos(t_k, s_k)

Then both are frozen. Of an image with a synthetic defect they give t' and s'; the segmentation
network G sees, at stride 4, the products of the l2-normalised channel vectors of all levels, and
learns the mask m of the defect. With y = G(t'/|t'| s'/|s'|) in [0, 1] and p = m y + (1 - m)(1 - y),

    L_segmentation = mean -(1 - p)^4 log p + mean |m - y|,    map = y

MVTec AD with a ResNet-18 teacher, mean of the 15 categories as the paper's abstract and tables
report: image AUROC 98.6, pixel AUROC 97.9, pixel average precision 75.8.

Published, with ``student_input: pixels``: the student is a ResNet-18 with random weights, in the
order of its stages forwards and then backwards, with bilinear interpolation in place of strides,
and no connections that skip the bottleneck; two residual blocks and DeepLabV3's pyramid of dilated
convolutions segment. 5,000 steps of 32 images with SGD, of which 1,000 are the student's. The rates
(student 0.4, residual blocks 0.1, pyramid 0.01), these 1,000 steps, the 256 channels of the
segmentation network, momentum and weight decay are quoted from memory and from ports of the code.

Our own, with ``student_input: features``, for two CPU cores: the student's encoder is the frozen
teacher itself, with the embedding and the decoder of reverse distillation (Deng & Li, CVPR 2022);
the segmentation network is narrow, and Muon trains both with warm-up and cosine decay. The map is
smoothed.

Our own in both: the synthetic defects, ``with_defects`` in ``disturbance.py``, which are filled
with the photographs of ``training.photographs``, or with generated textures, where the paper fills
Perlin noise above a threshold with the textures of DTD. Half of the synthetic anomalies that stand
in for missing test images here are made from such noise, and figures from them must not be better
because the method was trained on the like. A position of the mask is 1 where any of its pixels is.
The branch of the pyramid that averages the whole image is not normalised, since a batch of one has
no variance there. The weights kept are those of the epoch with the lowest loss on held-out normals
with synthetic defects. The score of an image is the maximum of its map, as of every method here;
the paper takes the mean of the 100 highest of 256×256 pixels.

Our own figures are in docs/results.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.combination import GRID, Combination, Level, LevelMaps
from stillwatch.detectors.base import Batch, Detector, Normals, Phase, schedule_of
from stillwatch.detectors.blocks.augmentations import random_windows
from stillwatch.detectors.blocks.disturbance import with_defects
from stillwatch.detectors.blocks.maps import position_cosine_loss
from stillwatch.detectors.blocks.optimizers import optimizer_of
from stillwatch.detectors.reverse_distillation import EmbeddingAndDecoder, require_two_positions
from stillwatch.sections import Section
from stillwatch.teachers.networks import Teacher

_FOCUS = 4
"""Exponent of the focal loss (gamma)."""
_DILATIONS = (6, 12, 18)
_WIDTHS = {"features": 32, "pixels": 256}
"""Channels of the segmentation network."""
_PYRAMIDS_RATE = 0.1
"""Rate of SGD for the pyramid, relative to that for the residual blocks."""


class DeSTSegSettings(Section):
    """The defaults are ours."""

    student_input: Literal["features", "pixels"] = Field(
        "features",
        description="what the student sees: the pretrained network's features, which is not the "
        "published network, or the images, which is",
    )
    optimizer: Literal["muon", "sgd"] = Field(
        "muon", description="muon with warm-up and decay, or the authors' sgd at a constant rate"
    )
    steps: int = Field(450, ge=1, description="of the student's optimizer")
    batch_size: int = Field(8, ge=1, description="images per step of the student, at most")
    learning_rate: float = Field(0.03, gt=0, lt=1, description="highest rate, of the student")
    segmentation_steps: int = Field(300, ge=1, description="of the segmentation's optimizer")
    segmentation_batch_size: int = Field(
        8, ge=1, description="images per step of the segmentation, at most"
    )
    segmentation_learning_rate: float = Field(
        0.03, gt=0, lt=1, description="highest rate, of the segmentation"
    )


class DeSTSeg(Detector):
    """Segmentation guided denoising student-teacher."""

    name = "destseg"
    version = 1
    Settings = DeSTSegSettings
    quick: ClassVar = {
        "steps": 60,
        "batch_size": 3,
        "segmentation_steps": 60,
        "segmentation_batch_size": 3,
    }
    paper: ClassVar = {
        "student_input": "pixels",
        "optimizer": "sgd",
        "steps": 1000,
        "batch_size": 32,
        "learning_rate": 0.4,
        "segmentation_steps": 4000,
        "segmentation_batch_size": 32,
        "segmentation_learning_rate": 0.1,
    }
    exportable = True

    settings: DeSTSegSettings

    def __init__(self, teacher: Teacher, settings: DeSTSegSettings) -> None:
        super().__init__(teacher, settings)
        self.student = (
            PixelStudent(teacher) if self._sees_pixels else EmbeddingAndDecoder(teacher.channels)
        )
        self.segmentation = SegmentationNetwork(
            sum(teacher.channels),
            _WIDTHS[settings.student_input],
            narrows_first=not self._sees_pixels,
        )

    @classmethod
    def uses_photographs(cls, settings: Mapping[str, Any]) -> bool:
        """Photographs fill the synthetic defects."""
        return True

    def prepare(self, normals: Normals) -> None:
        """Raise if the student's bottleneck has one position, whose values have no variance."""
        require_two_positions(normals, self.name)

    def phases(self) -> list[Phase]:
        """The student; then, with it frozen, the segmentation network."""
        settings = self.settings
        schedule = schedule_of(settings.optimizer)
        return [
            Phase(
                name="student",
                module=self.student,
                loss=self._student_loss,
                optimizer=optimizer_of(settings.optimizer, settings.learning_rate),
                epochs=1,
                least_steps=settings.steps,
                batch_size=settings.batch_size,
                schedule=schedule,
            ),
            Phase(
                name="segmentation",
                module=self.segmentation,
                loss=self._segmentation_loss,
                optimizer=self._segmentation_optimizer,
                epochs=1,
                least_steps=settings.segmentation_steps,
                batch_size=settings.segmentation_batch_size,
                schedule=schedule,
                settings_prefix="segmentation_",
            ),
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """The probability of an anomaly at stride 4, in [0, 1]."""
        return [torch.sigmoid(self._logits(images))]

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        """The segmentation's map, smoothed; as published, not smoothed."""
        if self._sees_pixels:
            return Combination(levels=(Level(),))
        return super().combination(normals, sigma)

    @property
    def _sees_pixels(self) -> bool:
        return self.settings.student_input == "pixels"

    def _imitated(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """The student's levels of images whose ``features`` the teacher has given."""
        seen = self.teacher.normalise(images) if self._sees_pixels else features
        levels: list[Tensor] = self.student(seen)
        return levels

    def _logits(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.teacher(images)
            products = normalised_products(features, self._imitated(images, features))
        logits: Tensor = self.segmentation(products)
        return logits

    def _student_loss(self, batch: Batch) -> Tensor:
        defective, _ = self._with_defects(batch)
        features = [] if self._sees_pixels else self.teacher(defective)
        return position_cosine_loss(batch.features, self._imitated(defective, features))

    def _segmentation_loss(self, batch: Batch) -> Tensor:
        defective, masks = self._with_defects(batch)
        marked = F.max_pool2d(masks.float(), GRID)[:, 0]
        return segmentation_loss(self._logits(defective), marked)

    def _with_defects(self, batch: Batch) -> tuple[Tensor, Tensor]:
        photographs = batch.photographs
        if photographs is None:
            return with_defects(batch.images)
        height, width = batch.images.shape[2:]
        textures = random_windows(photographs, max(height, width))[..., :height, :width]
        return with_defects(batch.images, textures)

    def _segmentation_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        rate = self.settings.segmentation_learning_rate
        make = optimizer_of(self.settings.optimizer, rate)
        if self.settings.optimizer == "muon":
            return make(parameters)
        blocks, pyramid = self.segmentation.blocks, self.segmentation.pyramid
        slower: dict[str, Any] = {"params": pyramid.parameters(), "lr": _PYRAMIDS_RATE * rate}
        return make([{"params": blocks.parameters()}, slower])


def normalised_products(taught: list[Tensor], imitated: list[Tensor]) -> list[Tensor]:
    """Products of the l2-normalised channel vectors: (B, C_l, h_l, w_l) twice per level -> once.

    Their sum over the channels is the cosine.
    """
    return [
        F.normalize(a.float(), dim=1) * F.normalize(b.float(), dim=1)
        for a, b in zip(taught, imitated, strict=True)
    ]


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Focal loss and mean absolute difference: (B, h, w) twice, masks of 0 and 1 -> scalar.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, without weights of the classes.
    """
    right = torch.where(masks > 0, logits, -logits).float()
    focal = -(torch.sigmoid(-right) ** _FOCUS * F.logsigmoid(right)).mean()
    return focal + (masks - torch.sigmoid(logits.float())).abs().mean()


class PixelStudent(nn.Module):
    """An encoder of the teacher's architecture, a stage to stride 32, and the way back."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        shallow, middle, deep = teacher.channels
        bottleneck = 2 * deep
        self.encoder = teacher.untrained_network()
        self.bottleneck = nn.Sequential(
            *_stage(deep, bottleneck, stride=2), *_stage(bottleneck, bottleneck)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(_Doubled(), *_stage(before, after))
            for before, after in ((bottleneck, deep), (deep, middle), (middle, shallow))
        )
        # The levels of a ResNet end with a ReLU, as those of the decoder; others do not.
        self.heads = nn.ModuleList(
            nn.Identity() if "resnet" in teacher.name else nn.Conv2d(count, count, 1)
            for count in (deep, middle, shallow)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Levels at strides 4, 8 and 16 of normalised images (B, 3, H, W)."""
        x = self.bottleneck(self.encoder(images)[-1])
        levels = []
        for stage, head in zip(self.decoder, self.heads, strict=True):
            x = stage(x)
            levels.append(head(x))
        return levels[::-1]


class SegmentationNetwork(nn.Module):
    """Two residual blocks and a pyramid of dilated convolutions at stride 4.

    Args:
        inputs: channels of all levels together.
        width: channels inside.
        narrows_first: whether a linear layer brings the inputs to ``width`` channels first.
    """

    def __init__(self, inputs: int, width: int, *, narrows_first: bool) -> None:
        super().__init__()
        first = [nn.Conv2d(inputs, width, 1)] if narrows_first else []
        self.blocks = nn.Sequential(*first, *_stage(width if narrows_first else inputs, width))
        self.pyramid = nn.Sequential(
            _DilatedPyramid(width), *_conv_norm_relu(width, width, 3), nn.Conv2d(width, 1, 1)
        )

    def forward(self, products: list[Tensor]) -> Tensor:
        """Logits (B, h_0, w_0) of an anomaly, from (B, C_l, h_l, w_l) per level."""
        size = products[0].shape[2:]
        joined = torch.cat(
            [
                products[0],
                *(
                    F.interpolate(level, size, mode="bilinear", align_corners=False)
                    for level in products[1:]
                ),
            ],
            dim=1,
        )
        logits: Tensor = self.pyramid(self.blocks(joined))[:, 0]
        return logits


class _DilatedPyramid(nn.Module):
    """Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution", arXiv 1706.05587: ASPP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*_conv_norm_relu(width, width, 1)),
                *(nn.Sequential(*_conv_norm_relu(width, width, 3, rate)) for rate in _DILATIONS),
            ]
        )
        self.whole = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())
        self.join = nn.Sequential(*_conv_norm_relu((len(self.branches) + 1) * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        whole = self.whole(x.mean(dim=(2, 3), keepdim=True)).expand_as(x)
        joined: Tensor = self.join(torch.cat([*(branch(x) for branch in self.branches), whole], 1))
        return joined


class _ResidualBlock(nn.Module):
    """The basic block of a ResNet-18 (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class _Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _stage(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return _ResidualBlock(inputs, outputs, stride), _ResidualBlock(outputs, outputs)


def _conv_norm_relu(
    inputs: int, outputs: int, size: int, dilation: int = 1
) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(
            inputs, outputs, size, padding=size // 2 * dilation, dilation=dilation, bias=False
        ),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
