"""Phases that trainings have in common: trained once, the same for every seed, found again."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from toys import SIDE, toy_normals, toy_teacher

from stillwatch.combination import Combination, Level, LevelMaps
from stillwatch.detectors.base import Batch, Detector, Phase
from stillwatch.errors import TrainingError
from stillwatch.geometry import fitted
from stillwatch.sections import Section
from stillwatch.settings import TrainingSettings
from stillwatch.teachers.networks import Teacher
from stillwatch.training.job import EpochReport
from stillwatch.training.loop import TrainingSummary, train

PHOTOGRAPHS = np.random.default_rng(0).integers(0, 256, (10, 128, 128, 3), dtype=np.uint8)


class TaughtSettings(Section):
    teacher_epochs: int = 3
    epochs: int = 2
    refuses: bool = False


class Taught(Detector):
    """A shared number learned on photographs, then one learned on normals and relative to it."""

    name = "taught"
    version = 1
    Settings = TaughtSettings
    quick: ClassVar = {}
    settings: TaughtSettings
    brightest: Tensor

    def __init__(self, teacher: Teacher, settings: Section) -> None:
        super().__init__(teacher, settings)
        self.shared, self.own = nn.Linear(1, 1), nn.Linear(1, 1)
        for value in self.shared.parameters():
            nn.init.constant_(value, 0.5)
        self.register_buffer("brightest", torch.zeros(()))
        self.sides: set[int] = set()

    def phases(self) -> list[Phase]:
        return [
            Phase(
                "shared",
                self.shared,
                lambda batch: self._loss(self.shared, batch) * (1 + 0.1 * torch.rand(())),
                sgd,
                self.settings.teacher_epochs,
                4,
                check=self._check,
                on_photographs=True,
                shared_as=f"{self.settings.teacher_epochs} epochs",
            ),
            Phase(
                "own",
                self.own,
                lambda batch: self._loss(self.own, batch),
                sgd,
                self.settings.epochs,
                4,
                prepare=self._measure,
            ),
        ]

    def _measure(self, images: Iterable[Batch]) -> None:
        levels = [batch.images.mean() + self.shared.weight.sum() for batch in images]
        self.brightest.copy_(torch.stack(levels).max())

    def _check(self, images: Iterable[Batch]) -> dict[str, float]:
        """Of the held-out photographs, of which there is one, or of the two validation normals."""
        losses = [float(self._loss(self.shared, batch)) for batch in images]
        if self.settings.refuses:
            raise TrainingError("the shared number is not good enough")
        return {"batches": len(losses), "loss": losses[0]}

    def _loss(self, line: nn.Module, batch: Batch) -> Tensor:
        self.sides.add(batch.images.shape[-1])
        means = batch.images.mean(dim=(1, 2, 3))[:, None]
        return (line(means) - means).square().mean()

    def level_maps(self, images: Tensor) -> list[Tensor]:
        return [(images.mean(dim=1) - self.brightest).abs()]

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        return Combination(levels=(Level(),))


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def taught(
    shared: Path | None,
    *,
    seed: int = 0,
    normals: int = 0,
    photographs: NDArray[np.uint8] | None = PHOTOGRAPHS,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    tiles_per_epoch: int | None = None,
    seen: list[str] | None = None,
    **values: object,
) -> tuple[Taught, list[str], TrainingSummary]:
    detector = Taught.build(toy_teacher(), values, seed=seed)
    seen = [] if seen is None else seen

    def on_epoch(report: EpochReport) -> None:
        seen.append(report.phase)
        if len(seen) == stop_after:
            raise KeyboardInterrupt

    summary = train(
        detector,
        train_images=list(toy_normals(8, first=normals)),
        validation_images=list(toy_normals(2, first=100)),
        geometry=fitted([(SIDE, SIDE)], SIDE),
        settings=TrainingSettings(seed=seed, checkpoint_every=1, tiles_per_epoch=tiles_per_epoch),
        device=torch.device("cpu"),
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        photographs=photographs,
        shared=shared,
    )
    return detector, seen, summary


def weights(module: nn.Module) -> list[float]:
    return [float(value) for value in module.state_dict().values()]


def test_the_second_training_takes_over_what_the_first_has_made(tmp_path: Path) -> None:
    first, seen, _ = taught(tmp_path)
    assert seen == ["shared"] * 3 + ["own"] * 2
    second, seen, _ = taught(tmp_path, seed=1, normals=50)
    assert seen == ["own"] * 2
    assert weights(second.shared) == weights(first.shared)
    assert weights(second.own) != weights(first.own)


def test_the_seconds_of_what_is_taken_over_are_those_that_it_took(tmp_path: Path) -> None:
    *_, whole = taught(tmp_path / "whole")
    assert whole.taken_over == {}
    *_, second = taught(tmp_path / "whole", seed=1)
    assert_took(second.taken_over["shared"], whole)


def test_what_a_phase_measures_is_recorded_also_where_its_weights_are_taken_over(
    tmp_path: Path,
) -> None:
    *_, first = taught(tmp_path)
    *_, second = taught(tmp_path, seed=1, normals=50)
    assert first.figures == second.figures
    assert first.figures.keys() == {"shared/batches", "shared/loss"}
    (last,) = [one for one in first.epochs if one.phase == "shared"][-1:]
    assert first.figures["shared/loss"] == pytest.approx(last.validation_loss, rel=0.1)


def test_what_a_phase_measures_is_kept_through_a_kill(tmp_path: Path) -> None:
    *_, whole = taught(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "shared", checkpoint=tmp_path / "at", stop_after=4)
    *_, resumed = taught(tmp_path / "shared", checkpoint=tmp_path / "at")
    assert resumed.figures == whole.figures


def test_a_phase_that_refuses_what_it_has_trained_ends_the_training_before_the_next(
    tmp_path: Path,
) -> None:
    seen: list[str] = []
    for _ in range(2):  # the second time with the weights of the first
        with pytest.raises(TrainingError, match="not good enough"):
            taught(tmp_path, refuses=True, seen=seen)
    assert seen == ["shared"] * 3


def test_the_seconds_before_a_resume_are_not_forgotten(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "shared", checkpoint=tmp_path / "first", stop_after=2)
    *_, first = taught(tmp_path / "shared", checkpoint=tmp_path / "first")
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "shared", seed=1, checkpoint=tmp_path / "second", stop_after=1)
    *_, second = taught(tmp_path / "shared", seed=1, checkpoint=tmp_path / "second")
    assert second.resumed
    assert_took(second.taken_over["shared"], first)


def assert_took(seconds: float, first: TrainingSummary) -> None:
    """From the training's start to the end of the shared phase, which comes first in it."""
    ends = {report.phase: report.seconds for report in first.epochs}
    assert ends["shared"] <= seconds < ends["own"]


def test_it_is_the_same_whoever_trains_it(tmp_path: Path) -> None:
    first, _, _ = taught(tmp_path / "a")
    second, _, _ = taught(tmp_path / "b", seed=1, normals=50)
    third, _, _ = taught(None, seed=2)
    assert weights(first.shared) == weights(second.shared) == weights(third.shared)


@pytest.mark.parametrize(
    "change",
    [
        {"teacher_epochs": 4},
        {"photographs": PHOTOGRAPHS[1:]},
        {"photographs": None},
        {"tiles_per_epoch": 5},
    ],
)
def test_what_it_depends_on_makes_it_another(tmp_path: Path, change: dict[str, Any]) -> None:
    taught(tmp_path)
    _, seen, _ = taught(tmp_path, **change)
    assert "shared" in seen


def test_without_photographs_it_is_the_categorys_own_and_of_the_same_size(tmp_path: Path) -> None:
    with_photographs, _, _ = taught(tmp_path)
    without, _, _ = taught(tmp_path, photographs=None)
    assert with_photographs.sides == without.sides == {64, 128}
    _, seen, _ = taught(tmp_path, photographs=None, normals=50)
    assert "shared" in seen, "another category has other normals"


def test_a_damaged_copy_is_trained_again(tmp_path: Path) -> None:
    first, _, _ = taught(tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"damaged")
    again, seen, _ = taught(tmp_path)
    assert "shared" in seen
    assert weights(again.shared) == weights(first.shared)


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, stop_after: int) -> None:
    whole, _, _ = taught(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "shared", checkpoint=tmp_path / "at", stop_after=stop_after)
    resumed, seen, _ = taught(tmp_path / "shared", checkpoint=tmp_path / "at")
    assert len(seen) == 5 - stop_after
    assert {k: v.tolist() for k, v in resumed.state_dict().items() if "teacher" not in k} == {
        k: v.tolist() for k, v in whole.state_dict().items() if "teacher" not in k
    }
