"""Uninformed students: an ensemble regresses the descriptors of a teacher.

On anomalies the students err and disagree.

Bergmann, Fauser, Sattlegger, Steger, "Uninformed Students: Student-Teacher Anomaly Detection with
Discriminative Latent Embeddings", CVPR 2020, arXiv 1911.02357, section 3.

With y the teacher's descriptor of a patch, m and s mean and standard deviation of its values over
the training normals, and S_i the descriptors of M students,

    loss of student i = mean over positions of |S_i - (y - m) / s|^2
    e = |mean_i S_i - (y - m) / s|^2,    v = mean_i |S_i|^2 - |mean_i S_i|^2
    map = (e - mean e) / std e + (v - mean v) / std v, averaged over the patch sizes

The means and deviations of e and v are those on the validation normals; the map is not smoothed.

``student_input: pixels`` (profile ``paper``) is the published method: teacher and students see
patches of images that are normalised as ImageNet's. The teacher of each patch size is taught as
``stillwatch.detectors.blocks.patch_distillation`` says, on the photographs of
``training.photographs`` and then kept for all categories; without photographs, on the category's
own normals, where it sees less of the world and is taught anew for every category. It sees at most
1000 photographs, where the paper has ImageNet. Students of a teacher that has not learnt the
pretrained descriptor would imitate noise: the training ends with an error if the teacher's
coefficient of determination (R^2) on held-out images is below 0.3. The figure is in the bundle and,
as ``patch teacher SIZE/r2``, in MLflow.

``student_input: features`` (profile ``laptop``) is **not the published network**. It keeps the
ensemble, its loss and its map. There is no patch teacher: y are the features of the pretrained
network ``teacher.name`` at strides 8 and 16, as PatchCore joins them, and the students start from
its frozen features at stride 4 (``stillwatch.detectors.blocks.feature_networks``). The plain sum
e + v, smoothed, found a little more on *screw* and *commutator* and much less on *fabric_03*.

MVTec AD, mean of the 15 categories, as the paper reports it: AUPRO 0.866 / 0.900 / 0.857 for
patches of 17 / 33 / 65 pixels, 0.914 for all three. The paper has no image score; here it is the
maximum, as everywhere. The students kept are those of the epoch with the lowest loss on held-out
normals. Our own figures are in docs/results.md.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from stillwatch.combination import LEAST, Combination, Level, LevelMaps, Map
from stillwatch.detectors.base import Batch, Detector, Normals, Phase, schedule_of
from stillwatch.detectors.blocks.augmentations import random_windows
from stillwatch.detectors.blocks.feature_networks import deep_features, feature_student
from stillwatch.detectors.blocks.maps import parts
from stillwatch.detectors.blocks.optimizers import optimizer_of
from stillwatch.detectors.blocks.patch_distillation import (
    PatchTeacher,
    compactness_loss,
    explained_share,
    knowledge_loss,
    metric_loss,
    patches_and_shifted,
    pretrained_descriptors,
    pretrained_input,
)
from stillwatch.detectors.blocks.patch_networks import (
    DESCRIPTOR,
    PatchNetwork,
    PatchSize,
    Stride,
    require_sides,
)
from stillwatch.detectors.blocks.standardisation import Standardisation
from stillwatch.errors import TrainingError
from stillwatch.sections import Section
from stillwatch.teachers.networks import STRIDES, Teacher

LEAST_R2 = 0.3
"""Least coefficient of determination of a patch teacher on held-out images."""
_MEASURED_BATCHES = 8
"""Number of batches of images for mean and deviation of the pretrained descriptors."""
_WEIGHT_DECAY = 1e-5
"""The authors' weight decay of Adam."""


class UninformedStudentsSettings(Section):
    """The defaults are ours."""

    student_input: Literal["features", "pixels"] = Field(
        "features",
        description="what the students see: the pretrained network's features at stride 4, which "
        "is not the published network, or patches of the images, which is",
    )
    students: int = Field(3, ge=2, description="in the ensemble; of pixels: for each patch size")
    epochs: int = Field(
        1, ge=1, description="passes of the students over the normals, or more: see least_steps"
    )
    least_steps: int = Field(250, ge=1, description="of the students' optimizer")
    batch_size: int = Field(8, ge=1, description="images per step of the students, at most")
    optimizer: Literal["muon", "adam"] = Field(
        "muon", description="muon with warm-up and decay, or the authors' adam at a constant rate"
    )
    learning_rate: float = Field(0.03, gt=0, lt=1, description="highest rate of the optimizer")
    patch_sizes: tuple[PatchSize, ...] = Field(
        (65,),
        min_length=1,
        description="of pixels: 17, 33, 65; each has its teacher and its students",
    )
    stride: Stride = Field(
        8,
        description="of pixels: distance between descriptors (1, 2, 4, 8, 16), whose number falls "
        "as its square",
    )
    window: int | None = Field(
        8,
        ge=1,
        description="of pixels: side, in descriptors, of an image's random part; null: all of it",
    )
    teacher_steps: int = Field(300, ge=1, description="of the patch teacher's optimizer")
    # Not 2: an odd number of images would leave a batch of one, which has no negative.
    teacher_batch_size: int = Field(128, ge=3, description="patches per step of the teacher")
    teacher_learning_rate: float = Field(0.03, gt=0, lt=1, description="highest, of the teacher")
    knowledge_weight: float = Field(
        1.0, ge=0, description="of L_k; 0, with metric_weight 1: no pretrained network"
    )
    metric_weight: float = Field(0.0, ge=0, description="of L_m")
    compactness_weight: float = Field(1.0, ge=0, description="of L_c")

    @field_validator("patch_sizes")
    @classmethod
    def _each_once(cls, sizes: tuple[PatchSize, ...]) -> tuple[PatchSize, ...]:
        if len(set(sizes)) < len(sizes):
            raise ValueError("names a patch size twice")
        return sizes

    @model_validator(mode="after")
    def _something_to_teach(self) -> Self:
        if not self.knowledge_weight and not self.metric_weight:
            raise ValueError(
                "knowledge_weight and metric_weight are both 0, which teaches the patch teacher "
                "nothing. With knowledge_weight 0 set metric_weight to 1"
            )
        return self


class UninformedStudents(Detector):
    """Student-teacher anomaly detection with discriminative latent embeddings."""

    name = "uninformed_students"
    version = 2
    Settings = UninformedStudentsSettings
    quick: ClassVar = {"students": 2, "least_steps": 20, "batch_size": 3, "learning_rate": 0.08}
    paper: ClassVar = {
        "student_input": "pixels",
        "students": 3,
        "epochs": 100,
        "least_steps": 1,
        "batch_size": 1,
        "optimizer": "adam",
        "learning_rate": 0.0001,
        "patch_sizes": (17, 33, 65),
        "stride": 1,
        "window": None,
        "teacher_steps": 50_000,
        "teacher_batch_size": 64,
        "teacher_learning_rate": 0.0002,
    }
    exportable = True

    settings: UninformedStudentsSettings

    def __init__(self, teacher: Teacher, settings: UninformedStudentsSettings) -> None:
        super().__init__(teacher, settings)
        if self._sees_pixels:
            decoded = teacher.channels[-1] if settings.knowledge_weight else 0
            self.scales = nn.ModuleList(
                _Scale(size, settings.students, decoded) for size in settings.patch_sizes
            )
        else:
            shallow, *deep = teacher.channels
            self.target = Standardisation(sum(deep))
            self.students = nn.ModuleList(
                feature_student(shallow, sum(deep)) for _ in range(settings.students)
            )

    @classmethod
    def teacher_strides(cls, teacher_name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """The levels that the students see and imitate.

        From pixels it is the level whose average describes a whole patch, and none where L_k has no
        weight.
        """
        if settings["student_input"] == "features":
            return STRIDES
        return (32,) if settings["knowledge_weight"] else ()

    @classmethod
    def uses_photographs(cls, settings: Mapping[str, Any]) -> bool:
        """Only the patch teacher does, which students of pixels have."""
        return bool(settings["student_input"] == "pixels")

    def prepare(self, normals: Normals) -> None:
        """Raise if images are smaller than a patch."""
        if not self._sees_pixels:
            return
        sides = next(iter(normals)).images.shape[2:]
        for size in self.settings.patch_sizes:
            require_sides(sides, size, self.name)

    def phases(self) -> list[Phase]:
        """All students; from pixels, for each patch size the teacher, which is shared, before."""
        if not self._sees_pixels:
            return [self._feature_students_phase()]
        return [
            phase
            for scale in self._scales()
            for phase in (self._teacher_phase(scale), self._patch_students_phase(scale))
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """E and v, from pixels of each patch size in turn, at least 0.

        They are at the stride of the settings from pixels, and at stride 8 from features.
        """
        if not self._sees_pixels:
            features = self.teacher(images)
            given = torch.stack([student(features[0]) for student in self.students])
            return list(error_and_variance(given, self.target(deep_features(features))))
        return [
            level
            for scale in self._scales()
            for level in scale.errors_and_variances(images, self.settings.stride).unbind(dim=1)
        ]

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        """Standardised error plus variance, averaged over the patch sizes, not smoothed."""
        sizes = len(self.settings.patch_sizes) if self._sees_pixels else 1
        levels = zip(*(one.maps for one in normals), strict=True)
        return Combination(levels=tuple(_standardised(maps, sizes) for maps in levels))

    @property
    def _sees_pixels(self) -> bool:
        return self.settings.student_input == "pixels"

    def _feature_students_phase(self) -> Phase:
        return self._students_phase(
            "students",
            self.students,
            loss=self._feature_students_loss,
            prepare=lambda normals: self.target.measure(
                deep_features(batch.features) for batch in normals
            ),
        )

    def _patch_students_phase(self, scale: "_Scale") -> Phase:
        network = scale.teacher.network
        return self._students_phase(
            f"students {network.patch_size}",
            scale.students,
            loss=lambda batch: self._patch_students_loss(scale, batch.images),
            prepare=lambda normals: scale.target.measure(
                network.dense(image, self.settings.stride)
                for batch in normals
                for image in torch.split(batch.images, 1)
            ),
        )

    def _students_phase(
        self,
        name: str,
        students: nn.Module,
        *,
        loss: Callable[[Batch], Tensor],
        prepare: Callable[[Iterable[Batch]], None],
    ) -> Phase:
        settings = self.settings
        return Phase(
            name=name,
            module=students,
            loss=loss,
            optimizer=self._optimizer(settings.learning_rate),
            epochs=settings.epochs,
            least_steps=settings.least_steps,
            batch_size=settings.batch_size,
            schedule=schedule_of(settings.optimizer),
            prepare=prepare,
        )

    def _teacher_phase(self, scale: "_Scale") -> Phase:
        settings, teacher = self.settings, scale.teacher
        shared = {
            "version": self.version,
            "settings": settings.model_dump(
                mode="json",
                include={
                    "optimizer",
                    "teacher_steps",
                    "teacher_batch_size",
                    "teacher_learning_rate",
                    "knowledge_weight",
                    "metric_weight",
                    "compactness_weight",
                },
            ),
        }
        knows = settings.knowledge_weight > 0
        return Phase(
            name=f"patch teacher {teacher.network.patch_size}",
            module=teacher,
            loss=lambda batch: self._teacher_loss(teacher, batch),
            optimizer=self._optimizer(settings.teacher_learning_rate),
            epochs=1,
            least_steps=settings.teacher_steps,
            batch_size=settings.teacher_batch_size,
            schedule=schedule_of(settings.optimizer),
            keeps_best_epoch=False,
            prepare=(lambda images: self._measure_pretrained(teacher, images)) if knows else None,
            check=(lambda images: self._check_teacher(teacher, images)) if knows else None,
            on_photographs=True,
            settings_prefix="teacher_",
            shared_as=json.dumps(shared, sort_keys=True),
        )

    def _measure_pretrained(self, teacher: PatchTeacher, images: Iterable[Batch]) -> None:
        teacher.pretrained.measure(
            self._pretrained(self._patches(teacher, batch)[0])[..., None, None]
            for batch in islice(images, _MEASURED_BATCHES)
        )

    def _check_teacher(self, teacher: PatchTeacher, images: Iterable[Batch]) -> dict[str, float]:
        """R^2 of the pretrained descriptor on held-out images; raise if it is too low."""
        pairs = []
        for batch in images:
            patches, _ = self._patches(teacher, batch)
            pairs.append((self._wanted(teacher, patches), teacher.decoder(teacher(patches))))
        wanted, decoded = (torch.cat(of) for of in zip(*pairs, strict=True))
        r2 = explained_share(wanted, decoded)
        if r2 < LEAST_R2:
            where = f"detectors.{self.name}"
            raise TrainingError(
                f"detector '{self.name}': the patch teacher of {teacher.network.patch_size} pixels "
                f"has not learnt the pretrained descriptor: R^2 on held-out images is {r2:.2f} and "
                f"must be at least {LEAST_R2}. Raise {where}.teacher_steps, name a folder of some "
                f"hundred photographs in training.photographs, or set {where}.student_input to "
                "features, which needs no patch teacher."
            )
        return {"r2": r2}

    def _patches(self, teacher: PatchTeacher, batch: Batch) -> tuple[Tensor, Tensor]:
        """As many patches as the settings say, of all images alike, and the same ones shifted."""
        images = islice(cycle(batch.images), self.settings.teacher_batch_size)
        return patches_and_shifted(list(images), teacher.network.patch_size)

    def _pretrained(self, patches: Tensor) -> Tensor:
        return pretrained_descriptors(self.teacher(pretrained_input(patches))[-1])

    def _wanted(self, teacher: PatchTeacher, patches: Tensor) -> Tensor:
        """The standardised pretrained descriptors (B, C) of patches."""
        described: Tensor = teacher.pretrained(self._pretrained(patches)[..., None, None])
        return described.flatten(1)

    def _teacher_loss(self, teacher: PatchTeacher, batch: Batch) -> Tensor:
        weights = self.settings
        patches, shifted = self._patches(teacher, batch)
        descriptors = teacher(patches)
        loss = weights.compactness_weight * compactness_loss(descriptors)
        if weights.knowledge_weight:
            with torch.no_grad():
                wanted = self._wanted(teacher, patches)
            knowledge = knowledge_loss(teacher.decoder(descriptors), wanted)
            loss = loss + weights.knowledge_weight * knowledge
        if weights.metric_weight:
            metric = metric_loss(descriptors, teacher(shifted), descriptors.roll(1, dims=0))
            loss = loss + weights.metric_weight * metric
        return loss

    def _feature_students_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = self.target(deep_features(batch.features))
        return students_loss([student(batch.features[0]) for student in self.students], wanted)

    def _patch_students_loss(self, scale: "_Scale", images: Tensor) -> Tensor:
        network, stride, window = scale.teacher.network, self.settings.stride, self.settings.window
        # Scoring pads images as well.
        images = network.padded(images, stride)
        if window is not None:
            side = network.receptive_field + (window - 1) * stride
            images = random_windows(images, min(side, *images.shape[2:]))
        with torch.no_grad():
            wanted = scale.target(network(images, stride))
        return students_loss([student(images, stride) for student in scale.students], wanted)

    def _scales(self) -> "list[_Scale]":
        return cast("list[_Scale]", list(self.scales))

    def _optimizer(self, rate: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
        return optimizer_of(self.settings.optimizer, rate, weight_decay=_WEIGHT_DECAY)


def students_loss(students: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """Each student's squared distance, averaged over positions; the sum over the students.

    Args:
        students: (B, C, h, w) each.
        wanted: (B, C, h, w), standardised descriptors of the teacher.
    """
    return torch.stack([(given - wanted).square().sum(dim=1).mean() for given in students]).sum()


def error_and_variance(students: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """E and v at each position.

    Args:
        students: (M, B, C, h, w).
        wanted: (B, C, h, w), standardised descriptors of the teacher.

    Returns:
        (B, h, w) twice.
    """
    mean = students.mean(dim=0)
    error = (mean - wanted).square().sum(dim=1)
    variance = students.square().sum(dim=2).mean(dim=0) - mean.square().sum(dim=1)
    return error, variance


def _standardised(maps: Sequence[Map], sizes: int) -> Level:
    """One level in units of its spread over all positions of the normals, over ``sizes``."""
    values = np.concatenate([one.ravel() for one in maps]).astype(np.float64)
    return Level(offset=float(values.mean()), divisor=sizes * max(LEAST, float(values.std())))


class _Scale(nn.Module):
    """One patch size: its teacher and its students."""

    def __init__(self, patch_size: PatchSize, students: int, decoded: int) -> None:
        super().__init__()
        self.teacher = PatchTeacher(patch_size, decoded)
        self.target = Standardisation(DESCRIPTOR)
        self.students = nn.ModuleList(PatchNetwork(patch_size) for _ in range(students))

    def errors_and_variances(self, images: Tensor, stride: Stride) -> Tensor:
        """E and v at every ``stride``-th pixel: (B, 2, h, w)."""
        found = []
        # One image at a time: full-size activations of a batch would fill the memory.
        for image in parts(images, 1):
            wanted = self.target(self.teacher.network.dense(image, stride))
            students = cast("list[PatchNetwork]", list(self.students))
            given = torch.stack([student.dense(image, stride) for student in students])
            found.append(torch.stack(error_and_variance(given, wanted), dim=1))
        return torch.cat(found)
