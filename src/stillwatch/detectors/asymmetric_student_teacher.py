"""AST: a residual network imitates a normalising flow that has learnt the density of features.

Rudolph, Wehrbein, Rosenhahn, Wandt, "Asymmetric Student-Teacher Networks for Industrial Anomaly
Detection", WACV 2023, arXiv 2210.07829, section 3.

With x the features of the pretrained network at a position, c an encoding of the position, z =
f(x, c) the output of the flow (the paper's teacher) and s = g(x, c) that of the student, both
convolutional and with as many channels as x,

    loss of the flow = mean over positions of |z|^2 / 2 - log |det dz/dx|             (equation 3)
    loss of the student = map = |s - z|^2 / channels at each position                 (equation 4)

The first is the negative log-likelihood of x where z has a standard normal distribution. The
student is trained after the flow. A flow maps different features to different z, on anomalies too,
and the student, a network of another kind, does not follow there. On a normal whose likelihood the
flow underestimates, the student has learnt the same z.

MVTec AD with EfficientNet-B5 at 768×768, mean of the 15 categories, quoted from memory: image AUROC
0.992, pixel AUROC 0.950.

As in the paper: four Real-NVP coupling blocks with fixed random permutations, one hidden layer in
each subnetwork, soft clamping (alpha 3) and a factor that begins at 0 (the gamma of CS-Flow,
Rudolph et al., WACV 2022); 32 channels of sines and cosines for the position; four residual blocks
in the student. As in the authors' code, a block computes the second half from the new first half,
the kernels of the last block have 5×5 positions and the others 3×3, and the flow repeats the edges
of its maps.

Our own: x are the levels at strides 8 and 16 as PatchCore joins them, averaged to stride 16, where
the authors take one level at stride 32; each channel is standardised, which adds a constant to the
likelihood. The map is smoothed. The score of an image is the maximum of its map, where the authors
take the mean of images without a mask of the foreground. The weights kept are those of the epoch
with the lowest loss on held-out normals, the authors' of the last. In the profile ``laptop`` both
networks have an eighth of the width, and Muon trains them with warm-up and cosine decay. With a few
hundred normals the likelihood of held-out ones falls after some epochs; six epochs for the flow in
place of 14 gave a lower AUROC on *commutator*, though (0.849 and 0.871).

Our own figures are in docs/results.md.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.detectors.base import Batch, Detector, Normals, Phase, schedule_of
from stillwatch.detectors.blocks.maps import joined_neighbourhoods
from stillwatch.detectors.blocks.optimizers import optimizer_of
from stillwatch.detectors.blocks.standardisation import Standardisation
from stillwatch.sections import Section
from stillwatch.teachers.networks import STRIDES, Teacher

_KERNELS = (3, 3, 3, 5)
"""Sides of the kernels in the coupling blocks of the flow."""
_LARGEST_LOG_SCALE = 3.0
"""The paper's alpha."""
_RESIDUAL_BLOCKS = 4
_LEAKY_SLOPE = 0.2
_FREQUENCIES = 8
_ENCODED = 4 * _FREQUENCIES
"""Channels of a position's encoding."""
_WEIGHT_DECAY = 1e-5


class AsymmetricStudentTeacherSettings(Section):
    """The defaults are ours."""

    epochs: int = Field(14, ge=1, description="passes over the training normals, of each network")
    batch_size: int = Field(8, ge=1, description="images per step, at most")
    optimizer: Literal["muon", "adam"] = Field(
        "muon", description="muon with warm-up and decay, or the authors' adam at a constant rate"
    )
    learning_rate: float = Field(0.03, gt=0, lt=1, description="highest rate of the optimizer")
    width: int = Field(128, ge=1, description="channels of the hidden layers of both networks")


class AsymmetricStudentTeacher(Detector):
    """A student of another architecture than the normalising flow that it imitates."""

    name = "asymmetric_student_teacher"
    version = 1
    Settings = AsymmetricStudentTeacherSettings
    quick: ClassVar = {"epochs": 8, "batch_size": 3, "learning_rate": 0.08, "width": 16}
    paper: ClassVar = {
        "epochs": 240,
        "batch_size": 8,
        "optimizer": "adam",
        "learning_rate": 0.0002,
        "width": 1024,
    }
    exportable = True

    settings: AsymmetricStudentTeacherSettings

    def __init__(self, teacher: Teacher, settings: AsymmetricStudentTeacherSettings) -> None:
        super().__init__(teacher, settings)
        channels = sum(teacher.channels[-2:])
        self.standardisation = Standardisation(channels)
        self.flow = NormalisingFlow(channels, settings.width)
        self.student = ResidualStudent(channels, settings.width)

    @classmethod
    def teacher_strides(cls, teacher_name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """Those that are joined."""
        return STRIDES[1:]

    def prepare(self, normals: Normals) -> None:
        """Measure mean and deviation of the features."""
        self.standardisation.measure(_joined(batch.features) for batch in normals)

    def phases(self) -> list[Phase]:
        """The flow, then the student."""
        return [
            self._phase("flow", self.flow, self._flow_loss),
            self._phase("student", self.student, self._student_loss),
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """Mean over channels of the squared distance of student and flow, at stride 16."""
        seen = self._seen(self.teacher(images))
        return [mean_square(self.student(*seen), self.flow(*seen)[0])]

    def _phase(self, name: str, module: nn.Module, loss: Callable[[Batch], Tensor]) -> Phase:
        settings = self.settings
        return Phase(
            name=name,
            module=module,
            loss=loss,
            optimizer=optimizer_of(
                settings.optimizer, settings.learning_rate, weight_decay=_WEIGHT_DECAY
            ),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=schedule_of(settings.optimizer),
        )

    def _flow_loss(self, batch: Batch) -> Tensor:
        z, log_determinant = self.flow(*self._seen(batch.features))
        return negative_log_likelihood(z, log_determinant).mean()

    def _student_loss(self, batch: Batch) -> Tensor:
        seen = self._seen(batch.features)
        with torch.no_grad():
            z, _ = self.flow(*seen)
        return mean_square(self.student(*seen), z).mean()

    def _seen(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What both networks see: standardised features and the encoding of their positions."""
        standardised = self.standardisation(_joined(features))
        count, _, height, width = standardised.shape
        encoding = positional_encoding(height, width).to(standardised)
        return standardised, encoding.expand(count, -1, -1, -1)


class NormalisingFlow(nn.Module):
    """A conditional Real-NVP on feature maps (section 3.1).

    Args:
        channels: of the feature maps, at least 2.
        width: of the hidden layers.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CouplingBlock(channels, width, side) for side in _KERNELS)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the logarithm of its absolute Jacobian determinant at each position.

        Args:
            x: float32 (B, C, h, w).
            condition: float32 (B, 32, h, w).

        Returns:
            float32 (B, C, h, w) and (B, h, w); the sum over the positions of the second is that of
            the whole map.
        """
        log_determinant = torch.zeros_like(x[:, 0])
        for block in self.blocks:
            x, log_scale = block(x, condition)
            log_determinant = log_determinant + log_scale
        return x, log_determinant


class CouplingBlock(nn.Module):
    """Permutes the channels, then scales and shifts each half by functions of the other.

    Args:
        channels: of the feature maps, at least 2.
        width: of the hidden layers.
        side: of the kernels.
    """

    permutation: Tensor

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        self.first = first = channels // 2
        second = channels - first
        self.register_buffer("permutation", torch.randperm(channels))
        self.from_second = _Subnetwork(second, 2 * first, width, side)
        self.from_first = _Subnetwork(first, 2 * second, width, side)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w), and the logarithm of the product of the scales at each position."""
        permuted = x.index_select(1, self.permutation)
        first, second = permuted[:, : self.first], permuted[:, self.first :]
        first, one = scaled_and_shifted(first, self.from_second(second, condition))
        second, other = scaled_and_shifted(second, self.from_first(first, condition))
        return torch.cat([first, second], dim=1), one + other


class _Subnetwork(nn.Module):
    """One hidden layer; the output begins as 0, with which a block changes nothing."""

    def __init__(self, inputs: int, outputs: int, width: int, side: int) -> None:
        super().__init__()
        self.hidden = _edge_padded(inputs + _ENCODED, width, side)
        self.output = _edge_padded(width, outputs, side)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(torch.cat([x, condition], dim=1)))
        result: Tensor = self.gamma * self.output(hidden).to(x.dtype)
        return result


def scaled_and_shifted(x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Return x · exp(a) + t and the sum of a over the channels.

    a = 2/π · alpha · arctan(s / alpha) lies between -alpha and alpha, the soft clamping of
    Ardizzone et al., "Guided image generation with conditional invertible neural networks", 2019,
    arXiv 1907.02392.

    Args:
        x: float (B, C, h, w).
        coefficients: s and t, float (B, 2 C, h, w).
    """
    scale, shift = coefficients.chunk(2, dim=1)
    log_scale = 2 / math.pi * _LARGEST_LOG_SCALE * torch.atan(scale / _LARGEST_LOG_SCALE)
    return x * log_scale.exp() + shift, log_scale.sum(dim=1)


def negative_log_likelihood(z: Tensor, log_determinant: Tensor) -> Tensor:
    """|z|^2 / 2 - log |det dz/dx| at each position, without its constant.

    Args:
        z: float (B, C, h, w).
        log_determinant: float (B, h, w).
    """
    return z.square().sum(dim=1) / 2 - log_determinant


def mean_square(imitated: Tensor, z: Tensor) -> Tensor:
    """Squared distance at each position over the number of channels: (B, C, h, w) -> (B, h, w)."""
    return (imitated - z).square().mean(dim=1)


def positional_encoding(height: int, width: int) -> Tensor:
    """sin(p / 10000^(k/8)) and the cosine, of row and column p, for k = 0 to 7: (32, h, w).

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5, with half of the
    channels for each axis.
    """
    rows, columns = (_waves(length) for length in (height, width))
    by_row = rows[:, :, None].expand(-1, height, width)
    by_column = columns[:, None, :].expand(-1, height, width)
    return torch.cat([by_row, by_column])


class ResidualStudent(nn.Module):
    """A residual network without any bijection (section 3.2).

    Args:
        channels: of the feature maps.
        width: of the hidden layers.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels + _ENCODED, width, 3, padding=1),
            nn.LeakyReLU(_LEAKY_SLOPE),
            *(_ResidualBlock(width) for _ in range(_RESIDUAL_BLOCKS)),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, C, h, w), from the arguments of the flow."""
        result: Tensor = self.layers(torch.cat([x, condition], dim=1)).to(x.dtype)
        return result


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(width), *_convolution(width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


def _convolution(width: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(_LEAKY_SLOPE),
    )


def _edge_padded(inputs: int, outputs: int, side: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, padding_mode="replicate")


def _joined(features: list[Tensor]) -> Tensor:
    """The levels at strides 8 and 16, joined and averaged to stride 16."""
    return F.avg_pool2d(joined_neighbourhoods(*features[-2:]), 2)


def _waves(length: int) -> Tensor:
    """(16, length)."""
    exponents = torch.arange(_FREQUENCIES) / _FREQUENCIES
    angles = torch.arange(length) / (10_000**exponents)[:, None]
    return torch.cat([angles.sin(), angles.cos()])
