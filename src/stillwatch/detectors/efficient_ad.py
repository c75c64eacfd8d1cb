"""EfficientAD: a small patch teacher, a student that imitates it on normals, and an autoencoder.

Batzner, Heckler, König, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level
Latencies", WACV 2024, arXiv 2303.14535, section 3 and appendix A.

With T the teacher's standardised output, A the autoencoder's, S and S' the two halves of the
student's, I a normal, I' the same in other light, P a photograph, and squares averaged over
channels and positions,

    L = mean of the largest thousandth of (T(I) - S(I))^2 + (S(P))^2
        + (T(I') - A(I'))^2 + (A(I') - S'(I'))^2
    map = q((T - S)^2) / 2 + q((A - S')^2) / 2,    q(m) = 0.1 (m - q_a) / (q_b - q_a)

where q_a and q_b are the 0.9 and the 0.995 quantile of a map's values on the validation normals.
The map is not smoothed.
The term with P is left out where no photographs are given (``training.photographs``).

The teacher imitates the features, at strides 8 and 16 and twice the image's size, of a pretrained
network, as PatchCore joins them; it is taught on the photographs and then kept for all categories,
or, without them, on the category's own normals. The authors took 60,000 steps over ImageNet and a
Wide-ResNet-101, 384 channels wide; here the teacher has as many channels as the features, at most
384, sees at most 1000 photographs, however long it is taught, and takes the mean and deviation of
the features from 8 batches, where the authors take them from about 10,000 images.

MVTec AD, mean of the 15 categories, as the paper reports it: image AUROC 0.988 (S) and 0.991 (M).
Our own by default, for two CPU cores: networks half as wide as PDN-S, trained on random windows in
larger batches, for some hundred steps where the authors take 70,000; Muon, which in as many steps
leaves less of the features unexplained than Adam; and a loss that begins with all differences and
only at the end is left with the largest thousandth, which by itself teaches little in so few steps.
Window and change of light are drawn once for a batch.
Near its sides a window has padding where the image has pixels, for teacher and student alike.
Without these descriptors in the losses the image AUROC on screw was lower, 0.546 and not 0.590.

Measured (docs/results.md): profile ``laptop``, 500 photographs, 256 pixels, means over the seeds.

                image AUROC   AUPRO
    cloth       0.962         0.938
    plate       0.908         0.935
    screw       0.639         0.789
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
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
    RECEPTIVE_FIELD,
    STRIDE,
    GlobalAutoencoder,
    Size,
    description_network,
)
from stillwatch.detectors.blocks.maps import joined_neighbourhoods
from stillwatch.detectors.blocks.optimizers import muon_or_adam
from stillwatch.detectors.blocks.parts import parts
from stillwatch.detectors.blocks.patch_networks import require_sides
from stillwatch.detectors.blocks.standardisation import Standardisation
from stillwatch.sections import Section
from stillwatch.teachers.networks import Teacher

_MOST_CHANNELS = 384
HARD_SHARE = 0.001
"""Share of the differences in the published loss."""
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

    network: Size = Field("tiny", description="small (PDN-S), medium (PDN-M), tiny (narrower)")
    steps: int = Field(300, ge=1, description="of the optimizer, for student and autoencoder")
    batch_size: int = Field(4, ge=1, description="images per step, at most")
    window: int | None = Field(
        128,
        ge=RECEPTIVE_FIELD,
        multiple_of=STRIDE,
        description="side, in pixels, of an image's random part; null: all of it",
    )
    optimizer: Literal["muon", "adam"] = Field(
        "muon",
        description="muon with warm-up and decay, or the authors' adam, constant for the teacher "
        "and late dropping for the student",
    )
    learning_rate: float = Field(0.03, gt=0, lt=1, description="highest rate of the optimizer")
    first_share: float = Field(
        1.0,
        ge=HARD_SHARE,
        le=1,
        description="share of the differences in the loss at the start; at the end 0.001",
    )
    teacher_steps: int = Field(200, ge=1, description="of the patch teacher's optimizer")
    teacher_learning_rate: float = Field(0.03, gt=0, lt=1, description="highest, of the teacher")
    teacher_batch_size: int = Field(8, ge=1, description="images per step of the teacher, at most")


class EfficientAD(Detector):
    """Student-teacher and student-autoencoder differences of patch description networks."""

    name = "efficient_ad"
    version = 1
    Settings = EfficientADSettings
    quick: ClassVar = {
        "steps": 60,
        "batch_size": 1,
        "window": None,
        "optimizer": "adam",
        "learning_rate": 0.004,
        "first_share": HARD_SHARE,
        "teacher_steps": 4,
        "teacher_learning_rate": 0.004,
        "teacher_batch_size": 6,
    }
    paper: ClassVar = {
        "network": "small",
        "steps": 70_000,
        "batch_size": 1,
        "window": None,
        "optimizer": "adam",
        "learning_rate": 0.0001,
        "first_share": HARD_SHARE,
        "teacher_steps": 60_000,
        "teacher_learning_rate": 0.0001,
        "teacher_batch_size": 16,
    }
    uses_photographs = True
    exportable = True

    settings: EfficientADSettings

    def __init__(self, teacher: Teacher, settings: EfficientADSettings) -> None:
        super().__init__(teacher, settings)
        channels = min(_MOST_CHANNELS, sum(teacher.channels[-2:]))
        self.patch_teacher = _PatchTeacher(settings.network, channels)
        self.target = Standardisation(channels)
        self.trained = nn.ModuleDict(
            {
                "student": description_network(settings.network, 2 * channels),
                "autoencoder": GlobalAutoencoder(channels),
            }
        )

    @classmethod
    def teacher_strides(cls, teacher_name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """The levels that PatchCore joins."""
        return (8, 16)

    def prepare(self, normals: Normals) -> None:
        """Raise if images are smaller than a patch."""
        require_sides(next(iter(normals)).images.shape[2:], RECEPTIVE_FIELD, self.name)

    def phases(self) -> list[Phase]:
        """The patch teacher, which is shared; then student and autoencoder together."""
        settings = self.settings
        others = {"steps", "batch_size", "learning_rate", "first_share"}
        taught_as = settings.model_dump(mode="json", exclude=others)
        by_muon = settings.optimizer == "muon"
        return [
            Phase(
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
                    self._pretrained(batch.images)
                    for batch in islice(photographs, _MEASURED_BATCHES)
                ),
                on_photographs=True,
                settings_prefix="teacher_",
                shared_as=json.dumps({"version": self.version, **taught_as}, sort_keys=True),
            ),
            Phase(
                name="student and autoencoder",
                module=self.trained,
                loss=self._loss,
                optimizer=self._optimizer(settings.learning_rate),
                epochs=1,
                least_steps=settings.steps,
                batch_size=settings.batch_size,
                schedule=warm_up_and_cosine if by_muon else drop_at_the_end,
                keeps_best_epoch=False,
                prepare=lambda normals: self.target.measure(
                    self.patch_teacher(batch.images) for batch in normals
                ),
            ),
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """(T - S)^2 and (A - S')^2, averaged over channels, both at stride 4, at least 0."""
        distances = []
        # One image at a time: full-size activations of a batch would fill the memory.
        for image in parts(images, 1):
            taught = self.target(self.patch_teacher(image))
            first, second = self.trained["student"](image).chunk(2, dim=1)
            rebuilt = self.trained["autoencoder"](image, taught.shape[2:])
            differences = torch.stack([taught - first, rebuilt - second])
            distances.append(differences.square().mean(dim=2))
        return list(torch.cat(distances, dim=1).unbind())

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        """Mean of both maps, each normalised by its quantiles (section 3.4), not smoothed."""
        levels = []
        for maps in zip(*(one.maps for one in normals), strict=True):
            low, high = np.quantile(np.concatenate([one.ravel() for one in maps]), _QUANTILES)
            unit = max(LEAST, float(high - low)) / _AT_HIGH
            levels.append(Level(offset=float(low), divisor=2 * unit))
        return Combination(levels=tuple(levels))

    def _optimizer(self, rate: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
        return muon_or_adam(self.settings.optimizer, rate, weight_decay=_WEIGHT_DECAY)

    def _pretrained(self, images: Tensor) -> Tensor:
        """The features that the patch teacher imitates, (B, C, H/8, W/8)."""
        return fewer_channels(joined_neighbourhoods(*self.teacher(images)[-2:]), _MOST_CHANNELS)

    def _teacher_loss(self, batch: Batch) -> Tensor:
        images = greyed(batch.images, _GREY_SHARE["teacher"])
        window = self.settings.window
        part = random_window(images.shape[2:], 2 * window if window else None)
        images = images[..., *part]
        with torch.no_grad():
            wanted = self.patch_teacher.features(self._pretrained(images))
        given = self.patch_teacher(F.avg_pool2d(images, 2))
        return _mean_square(given - wanted)

    def _loss(self, batch: Batch) -> Tensor:
        student, autoencoder = self.trained["student"], self.trained["autoencoder"]
        whole = batch.images
        part = random_window(whole.shape[2:], self.settings.window)
        images = whole[..., *part]
        with torch.no_grad():
            taught = self.target(self.patch_teacher(images))
        share = hard_share(self.settings.first_share, batch.progress)
        loss = hard_feature_loss(taught, student(images).chunk(2, dim=1)[0], share)
        photographs = batch.photographs
        if photographs is not None:
            loss = loss + self._penalty(photographs)
        whole = in_other_light(whole, _LIGHT_CHANGE)
        images = whole[..., *part]
        with torch.no_grad():
            taught = self.target(self.patch_teacher(images))
        rebuilt = autoencoder(whole, [side // STRIDE for side in whole.shape[2:]])
        rebuilt = rebuilt[..., *(slice(x.start // STRIDE, x.stop // STRIDE) for x in part)]
        imitated = student(images).chunk(2, dim=1)[1]
        return loss + _mean_square(taught - rebuilt) + _mean_square(rebuilt - imitated)

    def _penalty(self, photographs: Tensor) -> Tensor:
        """Penalty on the student's output for photographs, which show no parts."""
        height, width = (side // 4 for side in photographs.shape[2:])
        middle = photographs[:, :, height : 3 * height, width : 3 * width]
        part = random_window(middle.shape[2:], self.settings.window)
        described = self.trained["student"](greyed(middle[..., *part], _GREY_SHARE["penalty"]))
        return _mean_square(described.chunk(2, dim=1)[0])


class _PatchTeacher(nn.Module):
    """A patch description network whose first weights do not depend on the seed."""

    def __init__(self, size: Size, channels: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(channels)
            self.network = description_network(size, channels)
        self.features = Standardisation(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H/4, W/4) of images (B, 3, H, W)."""
        described: Tensor = self.network(images)
        return described


def _mean_square(differences: Tensor) -> Tensor:
    return differences.square().mean()


def hard_share(first: float, progress: float) -> float:
    """Share of the differences in the loss: from ``first`` down to the published one.

    Each step multiplies it by the same factor; ``progress`` is in [0, 1].
    """
    share: float = first * (HARD_SHARE / first) ** progress
    return share


def hard_feature_loss(wanted: Tensor, given: Tensor, share: float = HARD_SHARE) -> Tensor:
    """Mean of the largest squared differences of each sample.

    Section 3.2, with p_hard = 1 - ``share``: (B, C, h, w) twice -> scalar.
    """
    squares = (wanted - given).square().flatten(1)
    hardest = max(1, round(share * squares.shape[1]))
    return squares.topk(hardest, dim=1, sorted=False).values.mean()


def random_window(sides: Sequence[int], side: int | None) -> tuple[slice, slice]:
    """Rows and columns of a random square, on the grid of the descriptors.

    Args:
        sides: of the images, multiples of 4.
        side: of the square, a multiple of 4; None, or more than there is: all of the image.
    """
    lengths = [length if side is None else min(side, length) for length in sides]
    starts = [
        STRIDE * int(torch.randint((whole - part) // STRIDE + 1, ()))
        for whole, part in zip(sides, lengths, strict=True)
    ]
    rows, columns = (slice(x, x + part) for x, part in zip(starts, lengths, strict=True))
    return rows, columns


def fewer_channels(maps: Tensor, most: int) -> Tensor:
    """Neighbouring channels averaged until there are at most ``most``: (B, C, h, w) -> 4-D."""
    if maps.shape[1] <= most:
        return maps
    channels_last = maps.permute(0, 2, 3, 1).flatten(1, 2)
    pooled = F.adaptive_avg_pool1d(channels_last, most)
    return pooled.view(*maps.shape[:1], *maps.shape[2:], most).permute(0, 3, 1, 2)
