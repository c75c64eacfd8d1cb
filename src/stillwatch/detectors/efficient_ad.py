"""EfficientAD: a student imitates a teacher on normals, and an autoencoder predicts it globally.

Batzner, Heckler, König, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level
Latencies", WACV 2024, arXiv 2303.14535, section 3 and appendix A.

With T the teacher's standardised output, A the autoencoder's, S and S' the two halves of the
student's, I a normal, I' the same in other light, P a photograph, and squares averaged over
channels and positions,

    L = mean of the largest share of (T(I) - S(I))^2 + (S(P))^2
        + (T(I') - A(I'))^2 + (A(I') - S'(I'))^2
    map = q((T - S)^2) / 2 + q((A - S')^2) / 2,    q(m) = 0.1 (m - q_a) / (q_b - q_a)

where q_a and q_b are the 0.9 and the 0.995 quantile of a map's values on the validation normals.

``student_input: pixels`` (profile ``paper``) is the published method: T and S are patch description
networks, the share is a thousandth, and the map is not smoothed. The networks do not pad, so that
the maps lack 4 positions on each side; they are extended by their outermost values.
(Re-implementations extend them by zeros, which gives the same image score.) ``teacher_weights``
names a public file of T's weights. Without one, T is taught here: it imitates the features, at
strides 8 and 16 and twice the size, of the pretrained network ``teacher.name``, as PatchCore
joins them, on the photographs of ``training.photographs``, and is then kept for all categories;
without photographs, on the category's own normals. The authors took 60,000 steps over ImageNet and
a Wide-ResNet-101; here T has as many channels as the features, at most 384, sees at most 1000
photographs, and takes the mean and deviation of the features from 8 batches, where the authors take
them from about 10,000 images. The term with P is left out where no photographs are given.

``student_input: features`` (profile ``laptop``) is **not the published network**. It keeps the two
halves of the student, the autoencoder and the losses. T are the pretrained network's joined
features themselves, and S and A start from its frozen features at stride 4
(``stillwatch.detectors.blocks.feature_networks``). There is no patch teacher, no term with P and no
other light (I' is I), and the share is a tenth, since a thousandth teaches little in so few steps.
The map is the plain sum (T - S)^2 + (A - S')^2, smoothed: both are in units of T's deviation, and
quantiles of its own would give the autoencoder's map, which finds less, as much weight.

MVTec AD, mean of the 15 categories, as the paper reports it: image AUROC 0.988 (S) and 0.991 (M).
Our own figures are in docs/results.md.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.combination import LEAST, Combination, Level, LevelMaps
from stillwatch.detectors.base import (
    Batch,
    Detector,
    Normals,
    Phase,
    schedule_of,
    warm_up_and_cosine,
)
from stillwatch.detectors.blocks.augmentations import greyed, in_other_light
from stillwatch.detectors.blocks.description_networks import (
    BORDER,
    PUBLIC_CHANNELS,
    RECEPTIVE_FIELD,
    DescriptionNetwork,
    GlobalAutoencoder,
    Size,
)
from stillwatch.detectors.blocks.feature_networks import deep_features, feature_student
from stillwatch.detectors.blocks.maps import joined_neighbourhoods, parts
from stillwatch.detectors.blocks.optimizers import optimizer_of
from stillwatch.detectors.blocks.patch_networks import require_sides
from stillwatch.detectors.blocks.standardisation import Standardisation, imagenet_normalised
from stillwatch.sections import Section
from stillwatch.teachers.networks import STRIDES, Teacher

_QUANTILES = (0.9, 0.995)
_AT_HIGH = 0.1
"""Value of a normalised map at the higher quantile; at the lower one it is 0."""
_MEASURED_BATCHES = 8
"""Number of batches of photographs for mean and deviation of the pretrained features."""
_GREY_SHARE = {"teacher": 0.1, "penalty": 0.3}
_LIGHT_CHANGE = 0.2
_WEIGHT_DECAY = 1e-5


def drop_at_the_end(progress: float) -> float:
    """The authors' schedule of the student: a tenth of the rate over the last twentieth."""
    return 1.0 if progress < 0.95 else 0.1


class EfficientADSettings(Section):
    """The defaults are ours."""

    student_input: Literal["features", "pixels"] = Field(
        "features",
        description="what student and autoencoder see: the pretrained network's features at "
        "stride 4, which is not the published network, or the images, which is",
    )
    steps: int = Field(250, ge=1, description="of the optimizer, for student and autoencoder")
    batch_size: int = Field(8, ge=1, description="images per step, at most")
    optimizer: Literal["muon", "adam"] = Field(
        "muon",
        description="muon with warm-up and decay, or the authors' adam, constant for the teacher "
        "and late dropping for the student",
    )
    learning_rate: float = Field(0.03, gt=0, lt=1, description="highest rate of the optimizer")
    hard_share: float = Field(
        0.1, gt=0, le=1, description="share of the student's differences that are in the loss"
    )
    network: Size = Field("small", description="of pixels: small (PDN-S) or medium (PDN-M)")
    teacher_weights: Path | None = Field(
        None,
        description="of pixels: file with the public weights of PDN-S or PDN-M; null: the patch "
        "teacher is taught here",
    )
    teacher_steps: int = Field(200, ge=1, description="of the patch teacher's optimizer")
    teacher_learning_rate: float = Field(0.03, gt=0, lt=1, description="highest, of the teacher")
    teacher_batch_size: int = Field(8, ge=1, description="images per step of the teacher, at most")

    @model_validator(mode="after")
    def _weights_are_for_pixels(self) -> Self:
        if self.teacher_weights is not None and self.student_input != "pixels":
            raise ValueError(
                "teacher_weights is set, and student_input features has no patch teacher. Set "
                "student_input to pixels, or teacher_weights to null"
            )
        return self


class EfficientAD(Detector):
    """Student-teacher and student-autoencoder differences of local descriptors."""

    name = "efficient_ad"
    version = 2
    Settings = EfficientADSettings
    quick: ClassVar = {"steps": 16, "batch_size": 3, "learning_rate": 0.08}
    paper: ClassVar = {
        "student_input": "pixels",
        "steps": 70_000,
        "batch_size": 1,
        "optimizer": "adam",
        "learning_rate": 0.0001,
        "hard_share": 0.001,
        "teacher_steps": 60_000,
        "teacher_learning_rate": 0.0001,
        "teacher_batch_size": 16,
    }
    exportable = True

    settings: EfficientADSettings

    def __init__(self, teacher: Teacher, settings: EfficientADSettings) -> None:
        super().__init__(teacher, settings)
        known = settings.teacher_weights is not None
        channels = PUBLIC_CHANNELS if known else min(PUBLIC_CHANNELS, sum(teacher.channels[-2:]))
        self.target = Standardisation(channels)
        student: nn.Module
        if self._sees_pixels:
            self.patch_teacher = _PatchTeacher(settings.network, channels)
            student = DescriptionNetwork(settings.network, 2 * channels)
            autoencoder = GlobalAutoencoder(channels)
        else:
            student = feature_student(teacher.channels[0], 2 * channels)
            autoencoder = GlobalAutoencoder(channels, teacher.channels[0], STRIDES[0])
        self.trained = nn.ModuleDict({"student": student, "autoencoder": autoencoder})

    @classmethod
    def teacher_strides(cls, teacher_name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """The level that the student sees and those that PatchCore joins, as far as needed."""
        if settings["student_input"] == "features":
            return STRIDES
        return () if settings["teacher_weights"] else STRIDES[1:]

    @classmethod
    def uses_photographs(cls, settings: Mapping[str, Any]) -> bool:
        """Only a student of pixels does."""
        return bool(settings["student_input"] == "pixels")

    def prepare(self, normals: Normals) -> None:
        """Load the public weights; raise if images are smaller than a patch."""
        if self._sees_pixels:
            require_sides(next(iter(normals)).images.shape[2:], RECEPTIVE_FIELD, self.name)
        if self.settings.teacher_weights is not None:
            self.patch_teacher.network.load_public(self.settings.teacher_weights)

    def phases(self) -> list[Phase]:
        """The patch teacher, if one is taught, which is shared; student and autoencoder."""
        settings = self.settings
        is_taught = self._sees_pixels and settings.teacher_weights is None
        by_muon = settings.optimizer == "muon"
        students = Phase(
            name="student and autoencoder",
            module=self.trained,
            loss=self._loss_on_pixels if self._sees_pixels else self._loss_on_features,
            optimizer=self._optimizer(settings.learning_rate),
            epochs=1,
            least_steps=settings.steps,
            batch_size=settings.batch_size,
            schedule=warm_up_and_cosine if by_muon else drop_at_the_end,
            keeps_best_epoch=False,
            prepare=lambda normals: self.target.measure(
                self.patch_teacher.network(batch.images)
                if self._sees_pixels
                else self._wanted_features(batch.features)
                for batch in normals
            ),
        )
        return [self._teacher_phase(), students] if is_taught else [students]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """(T - S)^2 and (A - S')^2, averaged over channels, at least 0.

        Both are at stride 4 from pixels, and at stride 8 from features.
        """
        if not self._sees_pixels:
            features = self.teacher(images)
            taught = self.target(self._wanted_features(features))
            return list(self._differences(features[0], features[0], taught).unbind())
        distances = []
        # One image at a time: full-size activations of a batch would fill the memory.
        for image in parts(images, 1):
            taught = self.target(self.patch_teacher.network(image))
            distances.append(self._differences(image, imagenet_normalised(image), taught))
        return list(F.pad(torch.cat(distances, dim=1), (BORDER,) * 4, mode="replicate").unbind())

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        """Mean of both maps, each normalised by its quantiles (section 3.4), not smoothed.

        Of features the plain sum, smoothed.
        """
        if not self._sees_pixels:
            return super().combination(normals, sigma)
        levels = []
        for maps in zip(*(one.maps for one in normals), strict=True):
            low, high = np.quantile(np.concatenate([one.ravel() for one in maps]), _QUANTILES)
            unit = max(LEAST, float(high - low)) / _AT_HIGH
            levels.append(Level(offset=float(low), divisor=2 * unit))
        return Combination(levels=tuple(levels))

    @property
    def _sees_pixels(self) -> bool:
        return self.settings.student_input == "pixels"

    def _differences(self, seen: Tensor, coded: Tensor, taught: Tensor) -> Tensor:
        """Squared differences of both halves: (2, B, h, w)."""
        first, second = self.trained["student"](seen).chunk(2, dim=1)
        rebuilt = self.trained["autoencoder"](coded, taught.shape[2:])
        return torch.stack([taught - first, rebuilt - second]).square().mean(dim=2)

    def _teacher_phase(self) -> Phase:
        settings = self.settings
        taught_by = {"network", "optimizer", "teacher_steps", "teacher_learning_rate"}
        taught_as = settings.model_dump(mode="json", include={*taught_by, "teacher_batch_size"})
        return Phase(
            name=f"patch teacher {settings.network}",
            module=self.patch_teacher,
            loss=self._teacher_loss,
            optimizer=self._optimizer(settings.teacher_learning_rate),
            epochs=1,
            least_steps=settings.teacher_steps,
            batch_size=settings.teacher_batch_size,
            schedule=schedule_of(settings.optimizer),
            keeps_best_epoch=False,
            prepare=lambda photographs: self.patch_teacher.features.measure(
                self._pretrained(batch.images) for batch in islice(photographs, _MEASURED_BATCHES)
            ),
            on_photographs=True,
            settings_prefix="teacher_",
            shared_as=json.dumps({"version": self.version, **taught_as}, sort_keys=True),
        )

    def _optimizer(self, rate: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
        return optimizer_of(self.settings.optimizer, rate, weight_decay=_WEIGHT_DECAY)

    def _wanted_features(self, features: list[Tensor]) -> Tensor:
        return fewer_channels(deep_features(features), PUBLIC_CHANNELS)

    def _pretrained(self, images: Tensor) -> Tensor:
        """The features that the patch teacher imitates, without their border.

        Args:
            images: (B, 3, H, W), twice the size of those that the patch teacher sees.

        Returns:
            (B, C, H/8 - 8, W/8 - 8).
        """
        joined = joined_neighbourhoods(*self.teacher(images)[-2:])
        inner = joined[..., BORDER:-BORDER, BORDER:-BORDER]
        return fewer_channels(inner, PUBLIC_CHANNELS)

    def _teacher_loss(self, batch: Batch) -> Tensor:
        images = greyed(batch.images, _GREY_SHARE["teacher"])
        with torch.no_grad():
            wanted = self.patch_teacher.features(self._pretrained(images))
        return _mean_square(self.patch_teacher.network(F.avg_pool2d(images, 2)) - wanted)

    def _loss_on_features(self, batch: Batch) -> Tensor:
        seen = batch.features[0]
        with torch.no_grad():
            taught = self.target(self._wanted_features(batch.features))
        first, second = self.trained["student"](seen).chunk(2, dim=1)
        rebuilt = self.trained["autoencoder"](seen, taught.shape[2:])
        hard = hard_feature_loss(taught, first, self.settings.hard_share)
        return hard + _mean_square(taught - rebuilt) + _mean_square(rebuilt - second)

    def _loss_on_pixels(self, batch: Batch) -> Tensor:
        student, autoencoder = self.trained["student"], self.trained["autoencoder"]
        images = batch.images
        with torch.no_grad():
            taught = self.target(self.patch_teacher.network(images))
        first = student(images).chunk(2, dim=1)[0]
        loss = hard_feature_loss(taught, first, self.settings.hard_share)
        photographs = batch.photographs
        if photographs is not None:
            loss = loss + self._penalty(photographs)
        images = in_other_light(images, _LIGHT_CHANGE)
        with torch.no_grad():
            taught = self.target(self.patch_teacher.network(images))
        rebuilt = autoencoder(imagenet_normalised(images), taught.shape[2:])
        second = student(images).chunk(2, dim=1)[1]
        return loss + _mean_square(taught - rebuilt) + _mean_square(rebuilt - second)

    def _penalty(self, photographs: Tensor) -> Tensor:
        """Penalty on the student's output for photographs, which show no parts."""
        height, width = (side // 4 for side in photographs.shape[2:])
        middle = photographs[:, :, height : 3 * height, width : 3 * width]
        described = self.trained["student"](greyed(middle, _GREY_SHARE["penalty"]))
        return _mean_square(described.chunk(2, dim=1)[0])


class _PatchTeacher(nn.Module):
    """A patch description network whose first weights do not depend on the seed."""

    def __init__(self, size: Size, channels: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(channels)
            self.network = DescriptionNetwork(size, channels)
        self.features = Standardisation(channels)


def _mean_square(differences: Tensor) -> Tensor:
    return differences.square().mean()


def hard_feature_loss(wanted: Tensor, given: Tensor, share: float) -> Tensor:
    """Mean of the largest squared differences of each sample.

    Section 3.2, with p_hard = 1 - ``share``: (B, C, h, w) twice -> scalar.
    """
    squares = (wanted - given).square().flatten(1)
    hardest = max(1, round(share * squares.shape[1]))
    return squares.topk(hardest, dim=1, sorted=False).values.mean()


def fewer_channels(maps: Tensor, most: int) -> Tensor:
    """Neighbouring channels averaged until there are at most ``most``: (B, C, h, w) -> 4-D."""
    if maps.shape[1] <= most:
        return maps
    channels_last = maps.permute(0, 2, 3, 1).flatten(1, 2)
    pooled = F.adaptive_avg_pool1d(channels_last, most)
    return pooled.view(*maps.shape[:1], *maps.shape[2:], most).permute(0, 3, 1, 2)
