"""STFPM: a student of the teacher's own architecture imitates its features on normals.

Wang, Han, Ding, Huang, "Student-Teacher Feature Pyramid Matching for Anomaly Detection", BMVC 2021,
arXiv 2103.04257, section 3.

With t and s the l2-normalised channel vectors of teacher and student at a position of a level,

    L = sum over levels of mean |t - s|^2,    map = product over levels of |t - s|^2

at a quarter of the image's size, without smoothing. The paper halves both, which changes nothing.

MVTec AD with a ResNet-18 teacher, mean of the 15 categories as the authors' repository reports it
(gdwang08/STFPM): image AUROC 0.955, pixel AUROC 0.970. The paper's pixel AUROC is 0.970.

The weights of their ResNet-18 come with no package, so those figures were not reproduced: layers,
loss, map and recipe were checked, not what they reach.

The loss is the authors', and with ``fusion: published`` the product. Our own: unless ``fusion`` is
``published``, the levels are added as ``standardised_by_normals`` says, since a product is 0 where
one level sees nothing; levels are enlarged with ``align_corners=True``, where their code has False;
the epoch is selected by the validation loss on the tenth of the normals that watches every training
here, where their code takes the mean of the anomaly map on a fifth; the teacher's features are kept
in half precision; and unless ``optimizer`` is ``sgd``, Muon in small batches with warm-up and
cosine decay, so that two CPU cores reach in tens of epochs what their recipe takes a hundred for.

Our own figures are in docs/results.md.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from stillwatch.combination import Combination, Level, LevelMaps
from stillwatch.detectors.base import Batch, Detector, FusionSettings, Phase, schedule_of
from stillwatch.detectors.blocks.maps import normalised_distance
from stillwatch.detectors.blocks.optimizers import optimizer_of
from stillwatch.teachers.networks import Teacher


class STFPMSettings(FusionSettings):
    """The defaults are ours."""

    epochs: int = Field(16, ge=1, description="passes over the training normals")
    batch_size: int = Field(8, ge=1, description="images per step, at most")
    optimizer: Literal["muon", "sgd"] = Field(
        "muon", description="muon with warm-up and decay, or the authors' sgd at a constant rate"
    )
    learning_rate: float = Field(0.03, gt=0, lt=1, description="highest rate of the optimizer")


class STFPM(Detector):
    """Student-teacher feature pyramid matching."""

    name = "stfpm"
    version = 2
    Settings = STFPMSettings
    quick: ClassVar = {"epochs": 10, "batch_size": 3}
    paper: ClassVar = {
        "epochs": 100,
        "batch_size": 32,
        "optimizer": "sgd",
        "learning_rate": 0.4,
        "fusion": "published",
    }
    exportable = True

    settings: STFPMSettings

    def __init__(self, teacher: Teacher, settings: STFPMSettings) -> None:
        super().__init__(teacher, settings)
        self.student = teacher.untrained_network()

    def phases(self) -> list[Phase]:
        """One phase: the student learns all levels at once."""
        return [
            Phase(
                name="student",
                module=self.student,
                loss=self._loss,
                optimizer=optimizer_of(self.settings.optimizer, self.settings.learning_rate),
                epochs=self.settings.epochs,
                batch_size=self.settings.batch_size,
                schedule=schedule_of(self.settings.optimizer),
            )
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """Squared distances at strides 4, 8 and 16, in [0, 4]."""
        return self._distances(self.teacher(images), images)

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        """Sum over the levels standardised by normals; as published, the product, not smoothed."""
        if self.settings.fusion == "published":
            return Combination(levels=(Level(),) * len(normals[0].maps), fusion="product")
        return super().combination(normals, sigma)

    def _loss(self, batch: Batch) -> Tensor:
        distances = self._distances(batch.features, batch.images)
        return torch.stack([level.mean() for level in distances]).sum()

    def _distances(self, features: Iterable[Tensor], images: Tensor) -> list[Tensor]:
        imitated = self.student(self.teacher.normalise(images))
        return [normalised_distance(a, b) for a, b in zip(features, imitated, strict=True)]
