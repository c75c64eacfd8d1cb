"""Checks that every detection method passes, like scikit-learn's ``check_estimator``.

It trains the method with its ``quick`` settings on a dozen toy images with a toy teacher, which
takes seconds on one core.
"""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor
from toys import DEFECT, SIDE, planted_defects, toy_normals, toy_teacher

from stillwatch.combination import GRID, Combination
from stillwatch.detectors.base import Detector
from stillwatch.errors import DetectorError, ExportError
from stillwatch.export.graphs import write_onnx
from stillwatch.geometry import STRIDE, fitted
from stillwatch.inference.graph_scorers import OnnxScorer
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.parity import tolerance_of
from stillwatch.inference.stitching import Scorer
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.settings import TrainingSettings
from stillwatch.teachers.networks import Teacher
from stillwatch.training.job import EpochReport
from stillwatch.training.loop import train

NORMALS = 12
"""Number of training normals."""
GPU_TOLERANCE = 0.1
"""Largest difference of the scores of two trainings on a GPU, relative to the largest score: a GPU
does not always add in the same order."""
GEOMETRY = fitted([(SIDE, SIDE)], SIDE)
"""That of the toy images: one tile each."""


@dataclass(frozen=True)
class Trained:
    """What a training makes."""

    detector: Detector
    combination: Combination


class Trial:
    """A method under test on one device, trained once for the checks that need no training."""

    def __init__(self, method: type[Detector], device: str = "cpu") -> None:
        self.method = method
        self.device = torch.device(device)

    @cached_property
    def trained(self) -> Trained:
        """The method, trained on ``toy_normals(NORMALS)``."""
        return self.train()

    @cached_property
    def grid(self) -> int:
        """Pixels per position of the method's anomaly maps."""
        levels = TorchScorer(self.untrained(), self.device)(toy_normals(1))
        return min(GRID, *(SIDE // len(level[0]) for level in levels))

    def untrained(self, seed: int = 0) -> Detector:
        """A new detector of the method."""
        return self.method.build(self.teacher(), self.method.quick, seed=seed)

    def teacher(self) -> Teacher:
        """A new toy teacher of the kind that the method needs."""
        settings = self.method.Settings.model_validate(dict(self.method.quick))
        return toy_teacher(self.method.teacher_strides("toy", settings.model_dump()))

    def train(
        self,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[EpochReport], None] = lambda _: None,
    ) -> Trained:
        """A new detector of the method, trained."""
        detector = self.untrained()
        summary = train(
            detector,
            train_images=list(toy_normals(NORMALS)),
            validation_images=list(toy_normals(3, first=100)),
            geometry=GEOMETRY,
            settings=TrainingSettings(seed=0, checkpoint_every=1),
            device=self.device,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
        return Trained(detector, summary.combination)

    def mapper(self, trained: Trained, batch_size: int = 16) -> ImageMapper:
        """Computes anomaly maps as inspection does."""
        scorer = TorchScorer(trained.detector, self.device)
        return ImageMapper(scorer, GEOMETRY, trained.combination, batch_size)


def check_detector(method: type[Detector], device: str = "cpu") -> None:
    """Run every check on a method.

    Raises:
        AssertionError: the method breaks a promise; says which.
    """
    trial = Trial(method, device)
    for check in CHECKS:
        check(trial)


def check_constructor_trains_nothing(trial: Trial) -> None:
    """The teacher is frozen, and each phase has something of its own to train."""
    detector = trial.untrained()
    phases = detector.phases()
    _require(len({phase.name for phase in phases}) == len(phases), "two phases share a name")
    _require(
        not any(parameter.requires_grad for parameter in detector.teacher.parameters()),
        "the teacher can be trained",
    )
    for phase in phases:
        parameters = list(phase.module.parameters())
        _require(any(p.requires_grad for p in parameters), f"phase {phase.name} trains nothing")


def check_level_maps(trial: Trial) -> None:
    """Levels are float32 (B, H / stride, W / stride), with strides that are powers of two."""
    height, width = SIDE, SIDE + STRIDE
    scorer = TorchScorer(trial.untrained(), trial.device)
    for level in scorer(np.zeros((2, height, width, 3), np.uint8)):
        stride = height // level.shape[1]
        shape = 2, height // stride, width // stride
        power = stride & (stride - 1) == 0 and stride <= STRIDE
        well_formed = power and level.dtype == np.float32 and level.shape == shape
        _require(well_formed, f"a level of shape {level.shape} is ill-formed")


def check_training(trial: Trial) -> None:
    """Training changes the maps and leaves the teacher alone; every level is combined."""
    tiles = toy_normals(2)
    trained, untrained = (
        TorchScorer(detector, trial.device)(tiles)
        for detector in (trial.trained.detector, trial.untrained())
    )
    same = all(np.array_equal(*pair) for pair in zip(trained, untrained, strict=True))
    _require(not same, "training changes nothing")
    combined = len(trial.trained.combination.levels)
    _require(combined == len(trained), f"{combined} of {len(trained)} levels are combined")
    taught = trial.trained.detector.teacher.state_dict()
    _require(_same(taught, trial.teacher().state_dict()), "training changes the teacher")


def check_seed_and_resuming(trial: Trial) -> None:
    """The same seed gives the same weights, on a CPU to the last bit; another begins elsewhere.

    So it does when the training is stopped half-way and between two phases, and started again.
    """
    ends = list(accumulate(phase.passes(NORMALS) for phase in trial.untrained().phases()))
    stops = sorted({ends[-1] // 2, *ends[:-1]} - {0}) if ends else []
    with tempfile.TemporaryDirectory() as folder:
        for before, stop in zip([0, *stops], stops, strict=False):
            _train_until(trial, Path(folder), stop - before)
        again = trial.train(checkpoint=Path(folder))
    if stops and not _repeats(trial, again):
        _require(
            _repeats(trial, trial.train()),
            "the same seed gives other weights, scores or statistics",
        )
        _require(False, f"resumed after {stops} epochs it ends with other weights or scores")
    _require(_repeats(trial, again), "the same seed gives other weights, scores or statistics")
    if ends:
        other = _same(trial.untrained().state_dict(), trial.untrained(seed=1).state_dict())
        _require(not other, "another seed gives the same weights")


def check_saving(trial: Trial) -> None:
    """Written as tensors and read into a new detector, it gives identical maps."""
    state = trial.trained.detector.state_dict()
    tensors = {name: value.cpu().numpy() for name, value in state.items()}
    loaded = trial.untrained(seed=9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({name: np.asarray(value, order="C") for name, value in tensors.items()}, path)
        read = {name: torch.from_numpy(value) for name, value in load_file(path).items()}
    loaded.load_state_dict(read)
    images = toy_normals(2, first=50)
    before, after = (
        np.stack(list(trial.mapper(Trained(detector, trial.trained.combination)).maps(images)))
        for detector in (trial.trained.detector, loaded)
    )
    same = np.array_equal(before, after)
    _require(same, "the saved and loaded detector gives other maps")


def check_batch_size(trial: Trial) -> None:
    """An image's score does not depend on what else is in its batch, to 1e-5 of it."""
    images = np.concatenate([toy_normals(4, first=50), planted_defects(3)])
    whole = trial.mapper(trial.trained, 7).scores(images)
    for batch_size in (1, 3):
        parts = trial.mapper(trial.trained, batch_size).scores(images)
        _require(np.allclose(parts, whole, rtol=1e-5, atol=0), f"batch {batch_size} scores apart")


def check_strange_images(trial: Trial) -> None:
    """Constant, black, white and grey images and images of odd shapes get finite maps."""
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    normal, other = toy_normals(2)
    mapper = trial.mapper(trial.trained)
    for name, image in {
        "black": black,
        "white": black + np.uint8(255),
        "constant": black + np.array([200, 30, 90], np.uint8),
        "grey": np.repeat(normal[..., :1], 3, axis=-1),
        "small": normal[: SIDE - 13, : SIDE // 2 + 1],
        "large": np.concatenate([normal, other], axis=1)[:-3, :-5],
    }.items():
        try:
            (anomaly_map,) = mapper.maps([image])
        except DetectorError as error:
            raise AssertionError(f"the map of a {name} image is not finite: {error}") from error
        shape = tuple(-(-side // trial.grid) for side in image.shape[:2])
        _require(anomaly_map.shape == shape, f"the map of a {name} image has another size")


def check_defects(trial: Trial) -> None:
    """Planted defects score above unseen normals, and the maps are highest where they are."""
    mapper = trial.mapper(trial.trained)
    defects = planted_defects(8)
    maps = np.stack(list(mapper.maps(defects)))
    above = (maps.max(axis=(1, 2))[:, None] > mapper.scores(toy_normals(8, first=50))).mean()
    _require(above >= 0.9, f"planted defects score above normals in {above:.0%} of the pairs")
    defect = slice(DEFECT.start // trial.grid, DEFECT.stop // trial.grid)
    # Above the lowest value, since maps may be negative.
    inside, everywhere = maps[:, defect, defect].mean() - maps.min(), maps.mean() - maps.min()
    _require(inside > 1.5 * everywhere, "the maps do not show where the defects are")


def check_export(trial: Trial) -> None:
    """An exportable method's graph gives the same maps in batches of any size; others refuse."""
    detector = deepcopy(trial.trained.detector).cpu()
    images = np.concatenate([toy_normals(4, first=50), planted_defects(3)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            write_onnx(detector, GEOMETRY.tile, path)
        except ExportError as error:
            _require(not trial.method.exportable, f"it does not export ({error})")
            return
        graph = OnnxScorer(path)

    def maps(scorer: Scorer, batch_size: int) -> NDArray[np.float32]:
        mapper = ImageMapper(scorer, GEOMETRY, trial.trained.combination, batch_size)
        return np.stack(list(mapper.maps(images)))

    expected = maps(TorchScorer(detector, torch.device("cpu")), len(images))
    scores = expected.max(axis=(1, 2))
    tolerance = tolerance_of(float(scores.max()), scores.tolist())
    for size in (1, 3, 7):
        apart = float(np.abs(maps(graph, size) - expected).max())
        _require(apart <= tolerance, f"exported it gives other maps, {apart:.3g} apart")


CHECKS: tuple[Callable[[Trial], None], ...] = (
    check_constructor_trains_nothing,
    check_level_maps,
    check_training,
    check_seed_and_resuming,
    check_saving,
    check_batch_size,
    check_strange_images,
    check_defects,
    check_export,
)


class _StoppedError(Exception):
    pass


def _train_until(trial: Trial, checkpoint: Path, epochs: int) -> None:
    seen = []

    def stop(report: EpochReport) -> None:
        seen.append(report)
        if len(seen) == epochs:
            raise _StoppedError

    try:
        trial.train(checkpoint=checkpoint, on_epoch=stop)
    except _StoppedError:
        return
    _require(False, f"the training ends before epoch {epochs}")


def _repeats(trial: Trial, again: Trained) -> bool:
    """Whether a training gave what the first one gave, on a GPU about the same scores."""
    if trial.device.type == "cpu":
        first = trial.trained
        return first.combination == again.combination and _same(
            first.detector.state_dict(), again.detector.state_dict()
        )
    images = toy_normals(3, first=50)
    scores, scores_again = (trial.mapper(one).scores(images) for one in (trial.trained, again))
    return np.allclose(scores, scores_again, rtol=0, atol=GPU_TOLERANCE * float(scores.max()))


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value.cpu(), second[name].cpu()) for name, value in first.items()
    )


def _require(kept: bool, otherwise: str) -> None:
    if not kept:
        raise AssertionError(otherwise)
