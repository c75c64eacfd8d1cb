"""Methods of other shapes than the ones that are built in, and methods that break a promise."""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.detectors.base import Batch, Detector, Phase
from stillwatch.sections import Section
from stillwatch.teachers.networks import Teacher


class NoSettings(Section):
    pass


class PixelMean(Detector):
    """No phases: distance to the mean feature of the normals, scaled on validation normals."""

    name = "pixel_mean"
    version = 1
    Settings = NoSettings
    quick: ClassVar = {}
    mean: Tensor
    scale: Tensor

    def __init__(self, teacher: Teacher, settings: Section) -> None:
        super().__init__(teacher, settings)
        self.register_buffer("mean", torch.zeros(teacher.channels[0], 1, 1))
        self.register_buffer("scale", torch.ones(()))

    def prepare(self, normals: Iterable[Batch]) -> None:
        features = torch.cat([batch.features[0] for batch in normals])
        self.mean.copy_(features.mean(dim=(0, 2, 3))[:, None, None])

    def phases(self) -> list[Phase]:
        return []

    def finalize(self, validation_normals: Iterable[Batch]) -> None:
        maps = torch.cat([self.anomaly_map(batch.images) for batch in validation_normals])
        self.scale.copy_(maps.mean())

    def anomaly_map(self, images: Tensor) -> Tensor:
        distance = (self.teacher(images)[0] - self.mean).square().mean(dim=1, keepdim=True)
        return F.interpolate(distance / self.scale, images.shape[2:])[:, 0]


class TwoStage(Detector):
    """Two phases, the second on top of the first; augmentation, dropout."""

    name = "two_stage"
    version = 1
    Settings = NoSettings
    quick: ClassVar = {}

    def __init__(self, teacher: Teacher, settings: Section) -> None:
        super().__init__(teacher, settings)
        channels = teacher.channels[0]
        self.first = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.BatchNorm2d(2))
        self.second = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(2, channels, 1))
        self.error = nn.Conv2d(2, channels, 1)

    def phases(self) -> list[Phase]:
        return [
            Phase("rebuild", nn.ModuleList([self.first, self.second]), self._rebuild, sgd, 5, 4),
            Phase("error", self.error, self._error, sgd, 4, 4),
        ]

    def _rebuild(self, batch: Batch) -> Tensor:
        turned = batch.images.flip(3) if torch.rand(()) < 0.5 else batch.images
        target = self.teacher(turned)[0]
        return F.mse_loss(self.second(self.first(target)), target)

    def _error(self, batch: Batch) -> Tensor:
        (target, *_) = batch.features
        code = self.first(target)
        error = (self.second(code) - target).square()
        return F.mse_loss(self.error(code), error)

    def anomaly_map(self, images: Tensor) -> Tensor:
        (target, *_) = self.teacher(images)
        code = self.first(target)
        distance = ((self.second(code) - target).square() - self.error(code)).mean(dim=1)
        return F.interpolate(distance[:, None], images.shape[2:])[:, 0]


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


class WrongSize(PixelMean):
    def anomaly_map(self, images: Tensor) -> Tensor:
        return super().anomaly_map(images)[:, ::2, ::2]


class NotFiniteOnConstants(PixelMean):
    def anomaly_map(self, images: Tensor) -> Tensor:
        return super().anomaly_map(images) / images.std(dim=(1, 2, 3))[:, None, None]


class BatchDependent(PixelMean):
    def anomaly_map(self, images: Tensor) -> Tensor:
        maps = super().anomaly_map(images)
        return maps / maps.max()


class StateOutsideTensors(PixelMean):
    def finalize(self, validation_normals: Iterable[Batch]) -> None:
        self.offset = float(torch.stack([batch.images.mean() for batch in validation_normals])[0])

    def anomaly_map(self, images: Tensor) -> Tensor:
        return super().anomaly_map(images) + getattr(self, "offset", 0.0)


class BlindToDefects(PixelMean):
    def anomaly_map(self, images: Tensor) -> Tensor:
        return -super().anomaly_map(images).abs()


class TrainsTheTeacher(PixelMean):
    def finalize(self, validation_normals: Iterable[Batch]) -> None:
        self.teacher.std.mul_(1.1)


class UnseededAugmentation(TwoStage):
    def _rebuild(self, batch: Batch) -> Tensor:
        return super()._rebuild(batch) * float(np.random.default_rng().uniform(0.5, 1.5))


class ForgetsWhatItPrepared(TwoStage):
    """What ``prepare`` finds is no part of the state, and a resumed training lacks it."""

    level = 1.0

    def prepare(self, normals: Iterable[Batch]) -> None:
        self.level = 1 + float(torch.stack([batch.images.mean() for batch in normals]).mean())

    def _rebuild(self, batch: Batch) -> Tensor:
        return super()._rebuild(batch) * self.level


class UnfreezesTheTeacher(PixelMean):
    def __init__(self, teacher: Teacher, settings: Section) -> None:
        super().__init__(teacher, settings)
        teacher.requires_grad_(True)


class Exported(PixelMean):
    exportable = True


class ExportsForOneBatchSize(Exported):
    def anomaly_map(self, images: Tensor) -> Tensor:
        return torch.cat([super(Exported, self).anomaly_map(image[None]) for image in images])


class ExportsOtherMaps(Exported):
    def anomaly_map(self, images: Tensor) -> Tensor:
        maps = super().anomaly_map(images)
        return maps * 1.01 if torch.compiler.is_exporting() else maps


SOUND = (PixelMean, TwoStage, Exported)
BROKEN = {
    WrongSize: "ill-formed",
    NotFiniteOnConstants: "not finite",
    BatchDependent: "batch",
    StateOutsideTensors: "loaded",
    BlindToDefects: "planted defects",
    TrainsTheTeacher: "changes the teacher",
    UnseededAugmentation: "same seed",
    ForgetsWhatItPrepared: "resumed",
    UnfreezesTheTeacher: "can be trained",
    ExportsForOneBatchSize: "does not export",
    ExportsOtherMaps: "gives other maps",
}
