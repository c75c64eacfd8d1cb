"""Methods of other shapes than the ones that are built in, and methods that break a promise."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.combination import Combination, Level, LevelMaps
from stillwatch.detectors.base import Batch, Detector, Normals, Phase
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

    def __init__(self, teacher: Teacher, settings: Section) -> None:
        super().__init__(teacher, settings)
        self.register_buffer("mean", torch.zeros(teacher.channels[0], 1, 1))

    def prepare(self, normals: Normals) -> None:
        features = torch.cat([batch.features[0] for batch in normals])
        self.mean.copy_(features.mean(dim=(0, 2, 3))[:, None, None])

    def phases(self) -> list[Phase]:
        return []

    def level_maps(self, images: Tensor) -> list[Tensor]:
        return [(self.teacher(images)[0] - self.mean).square().mean(dim=1)]

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        mean = float(np.mean([one.maps[0].mean() for one in normals]))
        return Combination(levels=(Level(divisor=mean),))


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

    def level_maps(self, images: Tensor) -> list[Tensor]:
        (target, *_) = self.teacher(images)
        code = self.first(target)
        return [((self.second(code) - target).square() - self.error(code)).mean(dim=1)]

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        return Combination(levels=(Level(),), sigma=sigma)


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


class WrongSize(PixelMean):
    def level_maps(self, images: Tensor) -> list[Tensor]:
        return [level[:, 1:] for level in super().level_maps(images)]


class LeavesALevelOut(PixelMean):
    def level_maps(self, images: Tensor) -> list[Tensor]:
        return 2 * super().level_maps(images)


class NotFiniteOnConstants(PixelMean):
    def level_maps(self, images: Tensor) -> list[Tensor]:
        contrast = images.std(dim=(1, 2, 3))[:, None, None]
        return [level / contrast for level in super().level_maps(images)]


class BatchDependent(PixelMean):
    def level_maps(self, images: Tensor) -> list[Tensor]:
        return [level / level.max() for level in super().level_maps(images)]


class StateOutsideTensors(PixelMean):
    offset = 0.0

    def prepare(self, normals: Normals) -> None:
        super().prepare(normals)
        self.offset = float(torch.stack([batch.images.mean() for batch in normals])[0])

    def level_maps(self, images: Tensor) -> list[Tensor]:
        return [level + self.offset for level in super().level_maps(images)]


class BlindToDefects(PixelMean):
    def level_maps(self, images: Tensor) -> list[Tensor]:
        return [-level for level in super().level_maps(images)]

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        return Combination(levels=(Level(),))


class TrainsTheTeacher(PixelMean):
    def prepare(self, normals: Normals) -> None:
        super().prepare(normals)
        self.teacher.std.mul_(1.1)


class UnseededAugmentation(TwoStage):
    def _rebuild(self, batch: Batch) -> Tensor:
        return super()._rebuild(batch) * float(np.random.default_rng().uniform(0.5, 1.5))


class ForgetsWhatItPrepared(TwoStage):
    """What ``prepare`` finds is no part of the state, and a resumed training lacks it."""

    level = 1.0

    def prepare(self, normals: Normals) -> None:
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
    def level_maps(self, images: Tensor) -> list[Tensor]:
        levels = [super(Exported, self).level_maps(image[None]) for image in images]
        return [torch.cat(parts) for parts in zip(*levels, strict=True)]


class ExportsOtherMaps(Exported):
    def level_maps(self, images: Tensor) -> list[Tensor]:
        factor = 1.01 if torch.compiler.is_exporting() else 1.0
        return [factor * level for level in super().level_maps(images)]


SOUND = (PixelMean, TwoStage, Exported)
BROKEN = {
    WrongSize: "ill-formed",
    LeavesALevelOut: "1 of 2 levels are combined",
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
