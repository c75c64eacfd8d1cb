"""Checks that every method passes, like scikit-learn's ``check_estimator``.

It trains the method with its ``quick`` settings on a dozen toy images with a toy teacher, which
takes seconds on one core.
"""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from stillwatch.detectors.base import Detector
from stillwatch.errors import ExportError
from stillwatch.export.graphs import write_onnx
from stillwatch.inference.graph_scorers import OnnxScorer
from stillwatch.inference.inspector import score_images
from stillwatch.inference.parity import tolerance_of
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.settings import TrainingSettings
from stillwatch.testing.toys import DEFECT, SIDE, planted_defects, toy_normals, toy_teacher
from stillwatch.training.job import EpochReport
from stillwatch.training.loop import train

NORMALS = 12
"""Number of training normals."""
GPU_TOLERANCE = 0.1
"""Largest difference of the scores of two trainings on a GPU, relative to the largest score: a GPU
does not always add in the same order."""


class Trial:
    """A method under test on one device, trained once for the checks that need no training."""

    def __init__(self, method: type[Detector], device: str = "cpu") -> None:
        self.method = method
        self.device = torch.device(device)

    @cached_property
    def trained(self) -> Detector:
        """The method, trained on ``toy_normals(NORMALS)``."""
        return self.train()

    def untrained(self, seed: int = 0) -> Detector:
        """A new detector of the method."""
        return self.method.build(toy_teacher(), self.method.quick, seed=seed)

    def train(
        self,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[EpochReport], None] = lambda _: None,
        seed: int = 0,
    ) -> Detector:
        """A new detector of the method, trained."""
        detector = self.untrained(seed)
        train(
            detector,
            train_images=toy_normals(NORMALS),
            validation_images=toy_normals(3, first=100),
            settings=TrainingSettings(seed=seed, checkpoint_every=1),
            device=self.device,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
        return detector

    def maps(self, detector: Detector, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Anomaly maps as inspection computes them, all images in one batch."""
        return TorchScorer(detector, self.device)(images)


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


def check_maps(trial: Trial) -> None:
    """Maps are float32 of the images' size; training changed them and left the teacher alone."""
    images = toy_normals(2)
    maps = trial.maps(trial.trained, images)
    _require(maps.dtype == np.float32 and maps.shape == (2, SIDE, SIDE), "maps are ill-formed")
    _require(
        not np.array_equal(maps, trial.maps(trial.untrained(), images)), "training changes nothing"
    )
    taught = trial.trained.teacher.state_dict()
    _require(_same(taught, toy_teacher().state_dict()), "training changes the teacher")


def check_seed(trial: Trial) -> None:
    """The same seed gives the same weights, on a CPU to the last bit; another begins elsewhere."""
    again = trial.train()
    images = toy_normals(3, first=50)
    scores = score_images(_scorer(trial, trial.trained), images)
    scores_again = score_images(_scorer(trial, again), images)
    if trial.device.type == "cpu":
        same = _same(trial.trained.state_dict(), again.state_dict())
        _require(same, "the same seed gives other weights")
    tolerance = 0.0 if trial.device.type == "cpu" else GPU_TOLERANCE * float(scores.max())
    close = np.allclose(scores, scores_again, rtol=0, atol=tolerance)
    _require(close, "the same seed gives other scores")
    if trial.trained.phases():
        other = _same(trial.untrained().state_dict(), trial.untrained(seed=1).state_dict())
        _require(not other, "another seed gives the same weights")


def check_saving(trial: Trial) -> None:
    """Written as tensors and read into a new detector, it gives identical maps."""
    tensors = {name: value.cpu().numpy() for name, value in trial.trained.state_dict().items()}
    loaded = trial.untrained(seed=9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({name: np.asarray(value, order="C") for name, value in tensors.items()}, path)
        read = {name: torch.from_numpy(value) for name, value in load_file(path).items()}
    loaded.load_state_dict(read)
    images = toy_normals(2, first=50)
    same = np.array_equal(trial.maps(loaded, images), trial.maps(trial.trained, images))
    _require(same, "the saved and loaded detector gives other maps")


def check_batch_size(trial: Trial) -> None:
    """An image's score does not depend on what else is in its batch, to 1e-5 of it."""
    scorer = _scorer(trial, trial.trained)
    images = np.concatenate([toy_normals(4, first=50), planted_defects(3)])
    whole = score_images(scorer, images, batch_size=7)
    for batch_size in (1, 3):
        parts = score_images(scorer, images, batch_size=batch_size)
        _require(np.allclose(parts, whole, rtol=1e-5, atol=0), f"batch {batch_size} scores apart")


def check_strange_images(trial: Trial) -> None:
    """Constant, black, white, grey and non-square images get finite maps of their size."""
    black = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    grey = np.repeat(toy_normals(1)[..., :1], 3, axis=-1)
    oblong = np.concatenate([toy_normals(1), toy_normals(1, first=1)], axis=2)
    for name, images in {
        "black": black,
        "white": black + np.uint8(255),
        "constant": black + np.array([200, 30, 90], np.uint8),
        "grey": grey,
        "non-square": oblong,
    }.items():
        maps = trial.maps(trial.trained, images)
        _require(maps.shape == images.shape[:3], f"the map of a {name} image has another size")
        _require(bool(np.isfinite(maps).all()), f"the map of a {name} image is not finite")


def check_defects(trial: Trial) -> None:
    """Planted defects score above unseen normals, and the maps are highest where they are."""
    normals, defects = toy_normals(8, first=50), planted_defects(8)
    scorer = _scorer(trial, trial.trained)
    normal_scores, defect_scores = (score_images(scorer, x) for x in (normals, defects))
    above = (defect_scores[:, None] > normal_scores).mean()
    _require(above >= 0.9, f"planted defects score above normals in {above:.0%} of the pairs")
    maps = trial.maps(trial.trained, defects)
    inside = maps[:, DEFECT, DEFECT].mean()
    _require(inside > 1.5 * maps.mean(), "the maps do not show where the defects are")


def check_resume(trial: Trial) -> None:
    """Stopped half-way or between two phases and started again, it ends with the same weights."""
    ends = list(accumulate(phase.passes(NORMALS) for phase in trial.untrained().phases()))
    for stop in sorted({ends[-1] // 2, *ends[:-1]}) if ends else ():
        with tempfile.TemporaryDirectory() as folder:
            _train_until(trial, Path(folder), stop)
            resumed = trial.train(checkpoint=Path(folder))
        same = _same(resumed.state_dict(), trial.trained.state_dict())
        if trial.device.type == "cpu":
            _require(same, f"resumed after {stop} epochs it ends with other weights")


def check_export(trial: Trial) -> None:
    """An exportable method's graph gives the same maps in batches of any size; others refuse."""
    detector = deepcopy(trial.trained).cpu()
    images = np.concatenate([toy_normals(4, first=50), planted_defects(3)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            write_onnx(detector, SIDE, path)
        except ExportError as error:
            _require(not trial.method.exportable, f"it does not export ({error})")
            return
        graph = OnnxScorer(path)
    maps = TorchScorer(detector, torch.device("cpu"))(images)
    scores = maps.max(axis=(1, 2))
    tolerance = tolerance_of(float(scores.max()), scores.tolist())
    for size in (1, 3, 7):
        parts = [graph(images[start : start + size]) for start in range(0, len(images), size)]
        apart = float(np.abs(np.concatenate(parts) - maps).max())
        _require(apart <= tolerance, f"exported it gives other maps, {apart:.3g} apart")


CHECKS: tuple[Callable[[Trial], None], ...] = (
    check_constructor_trains_nothing,
    check_maps,
    check_seed,
    check_saving,
    check_batch_size,
    check_strange_images,
    check_defects,
    check_resume,
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


def _scorer(trial: Trial, detector: Detector) -> TorchScorer:
    return TorchScorer(detector, trial.device)


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value.cpu(), second[name].cpu()) for name, value in first.items()
    )


def _require(kept: bool, otherwise: str) -> None:
    if not kept:
        raise AssertionError(otherwise)
