"""The interface of detectors: ``Detector``, and the ``Phase`` and ``Batch`` of its training."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from stillwatch.combination import Combination, Level, LevelMaps, standardised_by_normals
from stillwatch.sections import Section, parse_section
from stillwatch.teachers.networks import STRIDES, Teacher


class Batch(Protocol):
    """The data of one training step; each part is computed when it is first used."""

    @property
    def progress(self) -> float:
        """How far the phase has come, in (0, 1]; 1 on validation normals."""
        ...

    @property
    def images(self) -> Tensor:
        """float32 (B, 3, H, W) in [0, 1]."""
        ...

    @property
    def features(self) -> list[Tensor]:
        """The teacher's feature maps of ``images``, float32 (B, C_l, H/s_l, W/s_l) per level.

        They are computed once and reused in every epoch. A loss that augments the images calls
        the teacher on what it made of them instead.
        """
        ...

    def covered(self, stride: int) -> Tensor:
        """Which positions of a level show the image, and not padding: bool (B, H/stride, W/stride).

        Padding repeats the edge of an image. Losses and standardisations may see it; what is
        remembered must not be padding.
        """
        ...

    @property
    def photographs(self) -> Tensor | None:
        """As many random photographs, float32 (B, 3, S, S) in [0, 1]; None if none were given.

        S is twice the longer side of ``images``. They are drawn with torch's global random
        generator, anew at each access.
        """
        ...


def constant(_progress: float) -> float:
    """A constant learning rate."""
    return 1.0


def warm_up_and_cosine(progress: float) -> float:
    """Linear rise over the first twentieth of the training, then half a cosine down to 0."""
    warm_up = 0.05
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def schedule_of(optimizer: str) -> Callable[[float], float]:
    """Warm-up and decay for ``muon``, the authors' constant rate for any other."""
    return warm_up_and_cosine if optimizer == "muon" else constant


@dataclass(frozen=True)
class Phase:
    """One stage of a training: the trained module, its loss, its optimiser and its length."""

    name: str
    module: nn.Module
    """Its parameters are trained; it is in train mode during the phase and in eval mode after."""
    loss: Callable[[Batch], Tensor]
    """Scalar mean loss of a batch; also evaluated, without gradients, on validation normals.
    It may draw from torch's global random generator, which is seeded anew in every epoch."""
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    """Makes the optimiser, whose state must be tensors only."""
    epochs: int
    """Passes over its images; more where those would have fewer steps than ``least_steps``."""
    batch_size: int
    """Upper limit; an epoch is divided into batches of equal size, to within one image."""
    least_steps: int = 1
    """Least number of optimiser steps, rounded up to whole passes."""
    schedule: Callable[[float], float] = constant
    """Factor on the learning rate as a function of progress in (0, 1), applied every step."""
    keeps_best_epoch: bool = True
    """Keep the epoch with the lowest validation loss; otherwise the last one."""
    prepare: Callable[[Iterable[Batch]], None] | None = None
    """Called once, before the first step, with the images of the phase in order: with all of them,
    or with as many as ten epochs have, evenly spread."""
    check: Callable[[Iterable[Batch]], dict[str, float]] | None = None
    """Called once, after the last step, with the held-out images of the phase in order. It returns
    figures to record with the training, by name, or raises ``TrainingError`` if the phases that
    follow could not learn from what this one has trained."""
    on_photographs: bool = False
    """Train on photographs in place of normals: squares whose side is twice the longer side of the
    normals. Where no photographs were given they are the normals, enlarged to twice their sides."""
    settings_prefix: str = ""
    """Prefix of the settings ``batch_size`` and ``learning_rate`` of this phase."""
    shared_as: str | None = None
    """A text that identifies what the phase trains, for a phase that depends only on its images and
    the teacher; None for other phases. The trained weights are kept for trainings of other
    categories and seeds, so the initial weights must not depend on the seed."""

    def steps_per_epoch(self, images: int) -> int:
        """Batches that ``images`` images are divided into."""
        return math.ceil(images / self.batch_size)

    def passes(self, images: int) -> int:
        """Epochs over ``images`` images."""
        return max(self.epochs, math.ceil(self.least_steps / self.steps_per_epoch(images)))


class Normals(Protocol):
    """Training normals in batches: all of them, or as many as ten epochs have, evenly spread."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int:
        """Number of images; of tiles, where images are cut into tiles."""
        ...


class FusionSettings(Section):
    """Of a method whose levels can be standardised by normals."""

    fusion: Literal["standardised", "published"] = Field(
        "standardised", description="sum of levels standardised by normals, or as published"
    )


class Detector(nn.Module, ABC):
    """A teacher-student method that turns images into level maps, and these into anomaly maps.

    An image is a tile where a category's images are cut into tiles. The network (``level_maps``)
    sees tiles, and is what an export holds. What looks at a whole image is a ``Combination`` of the
    level maps, stitched from the tiles: see ``stillwatch.combination``.

    A subclass is constructed from a teacher and its own settings, builds its layers in the
    constructor and does no other work there. Its state is tensors only (parameters and buffers,
    the teacher's included), so that a bundle needs nothing else.

    A method is added by adding one module to ``stillwatch.detectors``.
    """

    name: ClassVar[str]
    """The method's name in ``params.yaml``, MLflow and the tables."""
    version: ClassVar[int]
    """Increased when a change of the code changes weights or scores; part of the fingerprint."""
    Settings: ClassVar[type[Section]]
    """The method's own settings; the defaults are the profile ``laptop``, for two CPU cores."""
    paper: ClassVar[Mapping[str, Any]] = {}
    """The profile ``paper``: the published settings that differ from the defaults."""
    quick: ClassVar[Mapping[str, Any]]
    """Settings with which the method learns a dozen small images in seconds."""
    distils: ClassVar[bool] = True
    """Whether a student imitates a teacher. Other methods are baselines; see
    ``retrain.allow_baselines``."""
    experimental: ClassVar[bool] = False
    """Whether its results are too uneven to rely on; the docstring of its module says why."""
    exportable: ClassVar[bool] = False
    """Whether ``level_maps`` traces to ONNX with parity."""

    def __init__(self, teacher: Teacher, settings: Section) -> None:
        super().__init__()
        self.teacher = teacher
        self.settings = settings

    @classmethod
    def build(cls, teacher: Teacher, values: Mapping[str, Any], *, seed: int = 0) -> Self:
        """An untrained detector from settings by name; its weights depend on ``seed`` alone.

        Raises:
            SettingsError: an unknown key or a value out of range.
            DetectorError: the method cannot work with this teacher or these settings.
        """
        settings = parse_section(cls.Settings, dict(values), where=f"detectors.{cls.name}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(teacher, settings).eval()

    @classmethod
    def teacher_strides(cls, teacher_name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """Strides of the levels that the method takes from this teacher, from shallow to deep.

        Args:
            teacher_name: as in ``teacher.name``.
            settings: all of the method's own, by name.

        Returns:
            Empty if the method needs no teacher with these settings.
        """
        return STRIDES

    @classmethod
    def uses_photographs(cls, settings: Mapping[str, Any]) -> bool:
        """Whether the method also trains on photographs, where there are any.

        Args:
            settings: all of the method's own, by name.
        """
        return False

    def prepare(self, normals: Normals) -> None:
        """Compute statistics or a memory from the training normals, before the first phase."""

    @abstractmethod
    def phases(self) -> list[Phase]:
        """The stages of the training, in order; empty for a method without gradients."""

    @abstractmethod
    def level_maps(self, images: Tensor) -> list[Tensor]:
        """One map for each level; higher means more anomalous.

        Args:
            images: float32 (B, 3, H, W) in [0, 1]; H and W are multiples of 32.

        Returns:
            float32 (B, H / stride, W / stride) for each level.
        """

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        """How the level maps of a whole image become its anomaly map: here their smoothed sum.

        With ``fusion: standardised`` each level is standardised by normals before.

        Args:
            normals: level maps of validation normals, at least one; never of calibration images.
            sigma: of the papers' Gaussian filter, in pixels of the scaled image.
        """
        if isinstance(self.settings, FusionSettings) and self.settings.fusion == "standardised":
            return standardised_by_normals(normals, sigma, self.level_weights())
        return Combination(levels=(Level(),) * len(normals[0].maps), sigma=sigma)

    def level_weights(self) -> Sequence[float] | None:
        """Of the levels standardised by normals; None: all are 1."""
        return None

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules except the teacher, which stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self
