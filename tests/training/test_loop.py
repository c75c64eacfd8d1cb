"""The training loop on a toy method: what is kept, resumed, refused."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from small_disk import small_disk
from torch import Tensor, nn
from toys import toy_normals, toy_teacher

from stillwatch.combination import Combination, Level, LevelMaps
from stillwatch.detectors.base import Batch, Detector, Phase, warm_up_and_cosine
from stillwatch.detectors.uninformed_students import UninformedStudents
from stillwatch.errors import (
    DetectorError,
    DeviceMemoryError,
    SettingsError,
    StorageError,
    TrainingError,
)
from stillwatch.geometry import Geometry, fitted
from stillwatch.images.decode import Pixels
from stillwatch.machine.devices import choose_device
from stillwatch.sections import Section
from stillwatch.settings import TrainingSettings
from stillwatch.teachers.networks import Teacher
from stillwatch.training import data as training_data
from stillwatch.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from stillwatch.training.job import EpochReport
from stillwatch.training.loop import TrainingSummary, train

CPU = torch.device("cpu")


class LineSettings(Section):
    epochs: int = 4
    batch_size: int = 4
    learning_rate: float = 0.1
    keeps_best_epoch: bool = True


class Line(Detector):
    """Learns one number: the mean of the images. Quick enough to follow by hand."""

    name = "line"
    version = 1
    Settings = LineSettings
    quick: ClassVar = {}
    settings: LineSettings

    def __init__(self, teacher: Teacher, settings: Section) -> None:
        super().__init__(teacher, settings)
        self.level = nn.Module()
        self.level.value = nn.Parameter(torch.zeros(()))
        self.batch_sizes: list[int] = []
        self.progress: list[float] = []

    def phases(self) -> list[Phase]:
        return [
            Phase(
                "level",
                self.level,
                self._loss,
                self._optimizer,
                self.settings.epochs,
                self.settings.batch_size,
                keeps_best_epoch=self.settings.keeps_best_epoch,
            )
        ]

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.settings.learning_rate)

    def _loss(self, batch: Batch) -> Tensor:
        self.batch_sizes.append(len(batch.images))
        self.progress.append(batch.progress)
        return (batch.images.mean(dim=(1, 2, 3)) - self.level.value).square().mean()

    def level_maps(self, images: Tensor) -> list[Tensor]:
        return [(images.mean(dim=1) - self.level.value).abs()]

    def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
        largest = max(float(one.maps[0].max()) for one in normals)
        return Combination(levels=(Level(divisor=max(largest, 1e-6)),), sigma=sigma)


class FeatureLine(Line):
    """The same on the teacher's features."""

    def _loss(self, batch: Batch) -> Tensor:
        return (batch.features[0].mean(dim=(1, 2, 3)) - self.level.value).square().mean()


def flat(*levels: int) -> list[Pixels]:
    """Images of one grey level each."""
    return [np.full((32, 32, 3), level, np.uint8) for level in levels]


def run(
    detector: Detector,
    normals: Sequence[Pixels],
    validation: Sequence[Pixels],
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
    geometry: Geometry | None = None,
    **settings: object,
) -> TrainingSummary:
    """Without a geometry each image is one tile."""
    shapes = [(one.shape[0], one.shape[1]) for one in [*normals, *validation]]
    return train(
        detector,
        train_images=normals,
        validation_images=validation,
        geometry=geometry or fitted(shapes, max(shapes[0])),
        settings=TrainingSettings.model_validate(settings),
        device=CPU,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
    )


def line(method: type[Line] = Line, **values: object) -> Line:
    return method.build(toy_teacher(), values)


def test_steps_are_gradient_descent_on_the_mean_loss() -> None:
    detector = line(epochs=1, batch_size=2, learning_rate=0.25)
    run(detector, flat(51, 102), flat(51))
    # One step from 0: gradient -2 * mean(0.2, 0.4).
    assert detector.level.value.item() == pytest.approx(0.25 * 2 * 0.3)


def test_a_loss_is_told_how_far_the_phase_has_come() -> None:
    """Two epochs of two steps, each followed by one batch of validation normals."""
    detector = line(epochs=2, batch_size=1)
    run(detector, flat(10, 20), flat(15))
    assert detector.progress == [0.125, 0.375, 1.0, 0.625, 0.875, 1.0]


@pytest.mark.parametrize(
    ("epochs", "least_steps", "passes"), [(1, 1, 1), (1, 2, 1), (1, 3, 2), (1, 4, 2), (3, 4, 3)]
)
def test_least_steps_are_rounded_up_to_whole_epochs(
    epochs: int, least_steps: int, passes: int
) -> None:
    phase = replace(line(batch_size=2).phases()[0], epochs=epochs, least_steps=least_steps)
    assert phase.passes(3) == passes


def test_report_of_an_epoch() -> None:
    seen: list[EpochReport] = []
    summary = run(line(epochs=3), flat(51, 102, 102, 204), flat(51), on_epoch=seen.append)
    assert tuple(seen) == summary.epochs
    assert [report.epoch for report in seen] == [0, 1, 2]
    assert {(report.phase, report.epochs) for report in seen} == {("level", 3)}
    assert seen[0].train_loss == pytest.approx(np.mean(np.square([0.2, 0.4, 0.4, 0.8])))
    assert seen[-1].seconds_left == 0 < seen[0].seconds_left
    assert 0 < seen[0].seconds <= seen[-1].seconds <= summary.seconds
    assert not summary.resumed


def test_the_epoch_with_the_lowest_validation_loss_is_kept() -> None:
    # Normals at 0.8 pull the value past the validation normal at 0.2.
    best = line(epochs=8, learning_rate=0.1)
    summary = run(best, flat(204, 204, 204, 204), flat(51))
    losses = [report.validation_loss for report in summary.epochs]
    kept = summary.kept_epochs["level"]
    assert kept == int(np.argmin(losses)) < 7
    assert (best.level.value.item() - 0.2) ** 2 == pytest.approx(losses[kept], rel=1e-4)


def test_a_phase_may_keep_its_last_epoch() -> None:
    last = line(epochs=8, learning_rate=0.1, keeps_best_epoch=False)
    summary = run(last, flat(204, 204, 204, 204), flat(51))
    assert summary.kept_epochs == {"level": 7}
    assert last.level.value.item() == pytest.approx(0.8 * (1 - 0.8**8), rel=1e-4)


@pytest.mark.parametrize(
    ("images", "batch_size", "expected"), [(3, 8, [3]), (8, 4, [4, 4]), (9, 4, [3, 3, 3])]
)
def test_batches_are_even(images: int, batch_size: int, expected: list[int]) -> None:
    detector = line(epochs=1, batch_size=batch_size)
    run(detector, flat(*range(images)), flat(0))
    assert detector.batch_sizes == [*expected, 1]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def orders(seed: int) -> list[list[float]]:
        seen: list[float] = []

        class Recorder(Line):
            def _loss(self, batch: Batch) -> Tensor:
                seen.extend(batch.images[:, 0, 0, 0].tolist())
                return super()._loss(batch)

        torch.manual_seed(torch.seed())
        run(line(Recorder, epochs=2, batch_size=3), flat(*range(6)), flat(0), seed=seed)
        return [seen[0:6], seen[7:13]]

    first, second = orders(0)
    assert sorted(first) == sorted(second)
    assert first != second
    assert orders(0) == [first, second]
    assert orders(1) != [first, second]


def test_the_callers_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    run(line(epochs=1), flat(1, 2), flat(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    detector = line(epochs=200, learning_rate=1e6)
    with pytest.raises(TrainingError, match=r"Lower detectors\.line\.learning_rate"):
        run(detector, flat(10, 200), flat(50), checkpoint=tmp_path)


def test_a_batch_that_does_not_fit_into_memory_ends_the_training() -> None:
    class TooLarge(Line):
        def _loss(self, batch: Batch) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceMemoryError, match=r"'line'. Lower detectors\.line\.b") as caught:
        run(line(TooLarge), flat(1, 2), flat(0))
    assert caught.value.batch_setting == "batch_size"


def test_memory_that_statistics_do_not_fit_into_names_no_batch_size() -> None:
    class TooLarge(Line):
        def combination(self, normals: Sequence[LevelMaps], sigma: float) -> Combination:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceMemoryError, match=r"Lower images\.size") as caught:
        run(line(TooLarge), flat(1, 2), flat(0))
    assert caught.value.batch_setting is None


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_part_without_images_is_refused(part: str) -> None:
    none, some = flat(), flat(1)
    images = (none, some) if part == "train" else (some, none)
    with pytest.raises(TrainingError, match=f"no {part} normals"):
        run(line(), *images)


class Stopped(Exception):  # noqa: N818
    pass


def stop_after(epochs: int) -> Callable[[EpochReport], None]:
    def stop(report: EpochReport) -> None:
        if report.epoch + 1 == epochs:
            raise Stopped

    return stop


def interrupt(folder: Path, after: int, every: int = 1, **values: object) -> None:
    with pytest.raises(Stopped):
        run(
            line(FeatureLine, epochs=6, **values),
            toy_normals(8),
            toy_normals(2, first=50),
            checkpoint=folder,
            on_epoch=stop_after(after),
            checkpoint_every=every,
        )


def finish(folder: Path | None, **values: object) -> tuple[FeatureLine, TrainingSummary]:
    detector = line(FeatureLine, epochs=6, **values)
    seed = int(values.pop("seed", 0))  # type: ignore[call-overload]
    validation = toy_normals(2, first=50)
    return detector, run(detector, toy_normals(8), validation, checkpoint=folder, seed=seed)


def test_resumed_training_reports_the_whole_of_it(tmp_path: Path) -> None:
    interrupt(tmp_path, after=3)
    resumed, summary = finish(tmp_path)
    whole, expected = finish(None)
    assert summary.resumed
    assert torch.equal(resumed.level.value, whole.level.value)
    assert [report.validation_loss for report in summary.epochs] == [
        report.validation_loss for report in expected.epochs
    ]
    assert summary.kept_epochs == expected.kept_epochs


def test_epochs_after_the_last_checkpoint_are_trained_again(tmp_path: Path) -> None:
    interrupt(tmp_path, after=5, every=2)
    resumed, summary = finish(tmp_path)
    whole, _ = finish(None)
    assert [report.epoch for report in summary.epochs] == list(range(6))
    assert torch.equal(resumed.level.value, whole.level.value)


def test_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = finish(tmp_path)
    seen: list[EpochReport] = []
    detector = line(FeatureLine, epochs=6)
    run(detector, toy_normals(8), toy_normals(2, first=50), tmp_path, seen.append)
    assert seen == []
    assert torch.equal(detector.level.value, first.level.value)


@pytest.mark.parametrize("change", ["settings", "images"])
def test_checkpoint_of_another_training_is_not_used(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(tmp_path, after=3)
    if change == "settings":
        _, summary = finish(tmp_path, learning_rate=0.2)
    else:
        other = toy_normals(8, first=1)
        detector = line(FeatureLine, epochs=6)
        summary = run(detector, other, toy_normals(2, first=50), checkpoint=tmp_path)
    assert not summary.resumed
    assert "of another training" in caplog.text


def test_damaged_checkpoint_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupt(tmp_path, after=3)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-10])
    _, summary = finish(tmp_path)
    assert not summary.resumed
    assert "damaged" in caplog.text


def test_checkpoint_holds_no_pickle_and_nothing_of_the_teacher(tmp_path: Path) -> None:
    interrupt(tmp_path, after=1)
    (file,) = tmp_path.iterdir()
    assert file.name == "checkpoint.safetensors"
    assert b"teacher" not in file.read_bytes()


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_earlier_one(tmp_path: Path) -> None:
    small, large = (
        Checkpoint({"identity": "a"}, {"line.weight": torch.zeros(count)}) for count in (10, 10**6)
    )
    with small_disk(tmp_path / "disk", size="200k"):
        folder = tmp_path / "disk" / "checkpoint"
        save_checkpoint(folder, small)
        with pytest.raises(StorageError, match="no space left on this disk"):
            save_checkpoint(folder, large)
        assert [file.name for file in folder.iterdir()] == ["checkpoint.safetensors"]
        kept = load_checkpoint(folder, "a")
    assert kept is not None
    assert len(kept.tensors["line.weight"]) == 10


def test_a_method_that_asks_for_no_features_costs_none() -> None:
    detector = line(epochs=1)
    calls = []
    detector.teacher.register_forward_hook(lambda *_: calls.append(1))
    run(detector, flat(1, 2, 3), flat(1))
    assert calls == []


def test_short_memory_changes_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = finish(None)
    monkeypatch.setattr(training_data, "fits", lambda *_: False)
    computed, _ = finish(None)
    torch.testing.assert_close(computed.level.value, kept.level.value, rtol=1e-4, atol=0)


def left_of(*levels: int) -> list[Pixels]:
    """Images of 32 × 80 pixels, each of one grey level: three tiles of 32 pixels with ``TILES``."""
    return [np.full((32, 80, 3), level, np.uint8) for level in levels]


TILES = Geometry(scale=1.0, box=None, tile=(32, 32), overlap=0)


@pytest.mark.parametrize(
    ("tiles_per_epoch", "expected"), [(4, [2, 2]), (5, [3, 2]), (100, [3, 3, 3]), (None, [3] * 3)]
)
def test_tiles_per_epoch_bounds_an_epoch(tiles_per_epoch: int | None, expected: list[int]) -> None:
    detector = line(epochs=2, batch_size=3)
    run(
        detector,
        left_of(1, 2, 3),
        flat(0),
        geometry=TILES,
        tiles_per_epoch=tiles_per_epoch,
    )
    assert detector.batch_sizes == [*expected, 1] * 2


def test_an_epoch_has_the_pixels_of_400_images_by_default() -> None:
    detector = line(epochs=1, batch_size=10_000)
    run(detector, [np.zeros((32, 32 * 26_000, 3), np.uint8)], flat(0), geometry=TILES)
    assert sum(detector.batch_sizes[:-1]) == 400 * 64


def test_validation_watches_a_quarter_as_many_tiles_at_most() -> None:
    detector = line(epochs=1, batch_size=100)
    run(detector, left_of(*range(20)), left_of(*range(20)), geometry=TILES, tiles_per_epoch=24)
    assert detector.batch_sizes == [24, 6]


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_resumed_training_on_tiles_equals_an_uninterrupted_one(
    tmp_path: Path, after: int
) -> None:
    """Seven tiles an epoch of 24: the permutations end within epochs."""
    normals = [np.concatenate(toy_normals(3, first=3 * n)[:, :, :32], axis=1) for n in range(4)]
    assert normals[0].shape == (64, 96, 3)

    def trained(
        checkpoint: Path | None, on_epoch: Callable[[EpochReport], None] = lambda _: None
    ) -> tuple[FeatureLine, TrainingSummary]:
        detector = line(FeatureLine, epochs=6, batch_size=2, learning_rate=0.05)
        geometry = TILES
        summary = run(
            detector,
            normals,
            normals[:1],
            checkpoint,
            on_epoch,
            geometry,
            tiles_per_epoch=7,
            checkpoint_every=1,
        )
        return detector, summary

    with pytest.raises(Stopped):
        trained(tmp_path, stop_after(after))
    resumed, summary = trained(tmp_path)
    whole, expected = trained(None)
    assert summary.resumed
    assert torch.equal(resumed.level.value, whole.level.value)
    assert summary.combination == expected.combination
    assert [(x.train_loss, x.validation_loss) for x in summary.epochs] == [
        (x.train_loss, x.validation_loss) for x in expected.epochs
    ]


def test_statistics_are_of_whole_images() -> None:
    """The validation normal is 0.4 in one tile of three, and the method learns nothing."""
    detector = line(epochs=1, learning_rate=1e-12)
    normal = np.zeros((32, 80, 3), np.uint8)
    normal[:, 70:] = 102
    summary = run(detector, left_of(0), [normal], geometry=TILES)
    (level,) = summary.combination.levels
    assert level.divisor == pytest.approx(0.4)
    assert summary.combination.sigma == TILES.sigma


def test_tiles_smaller_than_a_patch_are_refused() -> None:
    detector = UninformedStudents.build(
        toy_teacher(), {"student_input": "pixels", "patch_sizes": [65]}
    )
    with pytest.raises(DetectorError, match=r"65.*32|32.*65"):
        run(detector, left_of(0), flat(0), geometry=TILES)


def test_schedule_warms_up_and_decays() -> None:
    assert warm_up_and_cosine(0.0) == 0
    assert warm_up_and_cosine(0.025) == pytest.approx(0.5)
    assert warm_up_and_cosine(0.05) == pytest.approx(1)
    assert warm_up_and_cosine(0.525) == pytest.approx(0.5)
    assert warm_up_and_cosine(1.0) == pytest.approx(0, abs=1e-12)
    assert not math.isnan(warm_up_and_cosine(0.9999))


def test_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"training\.device is cuda:99"):
        choose_device("cuda:99")
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
