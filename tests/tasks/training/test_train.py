import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from made_detectors import DIR_HASH, examined, make_images, small
from made_retrainings import SOUND
from made_stores import new_store

from stillwatch import detectors
from stillwatch.bundle import read_bundle
from stillwatch.detectors import detector_class, detector_classes
from stillwatch.errors import DetectorError, TrackingError, TrainingError
from stillwatch.images.store import ImageStore
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.torch_scorer import load_scorer
from stillwatch.settings import (
    CalibrationSettings,
    Settings,
    TeacherSettings,
    TrainingSettings,
)
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.data.version import DataVersion
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.training.candidates import DetectorSeed
from stillwatch.tasks.training.fingerprint import evaluation_key, fingerprint
from stillwatch.tasks.training.retraining_run import finish_retraining_run, start_retraining_run
from stillwatch.tasks.training.slots import training_slot
from stillwatch.tasks.training.task import TrainedDetector, train_detector
from stillwatch.tasks.training.training_images import read_training_images

Train = Callable[..., TrainedDetector]


pytestmark = pytest.mark.costly


@pytest.fixture
def here(settings: Settings) -> Settings:
    training = TrainingSettings(device="cpu", checkpoint_every=1)
    return small(settings).model_copy(update={"training": training})


@pytest.fixture
def tracking(here: Settings) -> Tracking:
    return new_store(here)


@pytest.fixture
def plate(here: Settings, tmp_path: Path) -> tuple[ExaminedCategory, DataVersion]:
    make_images(tmp_path / "data" / "plate")
    return examined(tmp_path / "data" / "plate", here)


@pytest.fixture
def train(here: Settings, tracking: Tracking, plate: tuple[ExaminedCategory, DataVersion]) -> Train:
    def call(settings: Settings = here, **more: Any) -> TrainedDetector:
        category, data = plate
        return train_detector(
            category, DetectorSeed("stfpm", 0), data=data, settings=settings, **more
        )

    return call


def test_a_trained_detector_is_stored_with_its_origin_and_reused_and_held_its_slot(
    here: Settings,
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    train: Train,
) -> None:
    category, data = plate
    parent = start_retraining_run(category.version, data, SOUND, here)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(train, parent_run=parent) for _ in range(2)]
        while not trainings():
            assert not any(one.done() for one in both), "it ended before it was seen"
            time.sleep(0.01)
        with training_slot(here.state_dir, ["cpu"], 1):
            assert trainings() == []
        together = [one.result() for one in both]
    assert sorted(one.reused for one in together) == [False, True]
    assert len({one.run_id for one in together}) == 1
    first = together[0]

    run = tracking.client.get_run(first.run_id)
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == parent
    assert tags["stillwatch.fingerprint"] == first.fingerprint
    assert tags["stillwatch.data_version"] == DIR_HASH
    assert tags["stillwatch.git_commit"] == data.commit
    assert (tags["stillwatch.method"], tags["stillwatch.seed"]) == ("stfpm", "0")
    assert len(tags["stillwatch.teacher_digest"]) == 64
    assert (tags["stillwatch.alpha"], tags["stillwatch.n"]) == ("0.05", "19")
    assert run.data.params["stfpm.epochs"] == "2"
    assert run.data.params["images.calibration"] == "19"
    assert run.inputs.dataset_inputs[0].dataset.digest == DIR_HASH
    assert "stillwatch.batch_halved" not in tags
    losses = tracking.client.get_metric_history(first.run_id, "student/validation_loss")
    assert [point.step for point in losses] == [0, 1]
    with tracking.artifact(first.run_id, BUNDLE) as folder:
        info = read_bundle(folder).info
    assert info.fingerprint == first.fingerprint
    assert tags["stillwatch.threshold"] == repr(info.calibration.reject.value)
    learnt = {row.md5 for row in category.manifest.rows if row.split == "train"}
    assert read_training_images(tracking, first.run_id) == learnt
    assert tracking.tags(parent)["stillwatch.reused.stfpm"] == first.run_id
    assert not list((here.state_dir / "trainings").iterdir())

    finish_retraining_run(here, parent)
    assert tracking.client.get_run(parent).info.status == "FINISHED"

    alphas = CalibrationSettings(alpha_reject=0.1, alpha_review=0.2)
    other = train(here.model_copy(update={"calibration": alphas}))
    assert other.reused
    assert other.run_id != first.run_id
    assert other.fingerprint == first.fingerprint
    assert not was_trained(tracking, other)
    with tracking.artifact(other.run_id, BUNDLE) as folder:
        recalibrated = read_bundle(folder).info
    assert read_training_images(tracking, other.run_id) == learnt
    assert recalibrated.weights_sha256 == info.weights_sha256
    assert recalibrated.calibration.reject.alpha == 0.1
    assert tracking.tags(other.run_id)["stillwatch.recalibrated_from"] == first.run_id

    forced = train(force=True)
    assert was_trained(tracking, forced)
    assert not forced.reused
    assert forced.run_id not in (first.run_id, other.run_id)
    assert train().run_id == forced.run_id


def was_trained(tracking: Tracking, trained: TrainedDetector) -> bool:
    return "peak_memory_megabytes" in tracking.client.get_run(trained.run_id).data.metrics


def kill_after_first_checkpoint(state_dir: Path) -> None:
    while not list(state_dir.glob("trainings/*/checkpoint/*.safetensors")):
        time.sleep(0.01)
    kill_trainings()


def kill_trainings() -> None:
    for child in trainings():
        child.kill()


def trainings() -> list[psutil.Process]:
    alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in alive if "stillwatch.training.child" in one.cmdline()]


def test_a_killed_training_resumes_and_a_failed_upload_is_repeated(
    here: Settings, tracking: Tracking, train: Train
) -> None:
    longer = here.model_copy(update={"detectors": {"stfpm": {"epochs": 12, "batch_size": 8}}})
    killer = threading.Thread(target=kill_after_first_checkpoint, args=(here.state_dir,))
    killer.start()
    with pytest.raises(TrainingError, match="SIGKILL"):
        train(longer)
    killer.join()
    (killed,) = tracking.find_runs("plate", {})
    assert killed.info.status == "FAILED"
    assert "SIGKILL" in killed.data.tags["stillwatch.reason"]

    artifacts = here.state_dir / "mlflow" / "artifacts"
    artifacts.write_text("a file where the artifacts should go", encoding="utf-8")
    with pytest.raises(TrackingError, match="could not store bundle"):
        train(longer)
    failed = tracking.find_runs("plate", {})[0]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["stillwatch.resumed"] == "true"
    assert "could not store bundle" in failed.data.tags["stillwatch.reason"]

    artifacts.unlink()
    stored = train(longer)
    assert not stored.reused
    assert not was_trained(tracking, stored)
    with tracking.artifact(stored.run_id, BUNDLE) as folder:
        assert read_bundle(folder).info.training.resumed
    assert not list((here.state_dir / "trainings").iterdir())


HUNGRY = """
from dataclasses import replace

import torch

from stillwatch.detectors.stfpm import STFPM


class Hungry(STFPM):
    name = "hungry"

    def phases(self):
        (phase,) = super().phases()
        return [replace(phase, name="modest"), replace(phase, name="hungry", loss=self._hungry)]

    def _hungry(self, batch):
        if self.settings.batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._loss(batch)
"""
FOUND_IN_CHILDREN = """
import stillwatch.detectors

stillwatch.detectors.__path__.append({folder!r})
"""


@pytest.fixture
def hungry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DetectorSeed]:
    """A method whose second phase has no room for more than four images, here and in children."""
    methods, start = tmp_path / "methods", tmp_path / "start"
    methods.mkdir()
    start.mkdir()
    (methods / "hungry.py").write_text(HUNGRY)
    (start / "sitecustomize.py").write_text(FOUND_IN_CHILDREN.format(folder=str(methods)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(start), *filter(None, sys.path)]))
    monkeypatch.setattr(detectors, "__path__", [*detectors.__path__, str(methods)])
    detector_classes.cache_clear()
    yield DetectorSeed("hungry", 0)
    detector_classes.cache_clear()


def test_a_training_that_runs_out_of_memory_is_retried_with_half_the_batch(
    here: Settings,
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    hungry: DetectorSeed,
    caplog: pytest.LogCaptureFixture,
) -> None:
    category, data = plate
    own = {"hungry": {"epochs": 2, "batch_size": 8}}
    stored = train_detector(
        category, hungry, data=data, settings=here.model_copy(update={"detectors": own})
    )
    assert "Lower detectors.hungry.batch_size" in caplog.text
    assert "Retrying with batch_size=4." in caplog.text
    assert tracking.tags(stored.run_id)["stillwatch.batch_halved"] == "batch_size=4"
    with tracking.artifact(stored.run_id, BUNDLE) as folder:
        info = read_bundle(folder).info
    assert info.detector.settings["batch_size"] == 4
    for phase in ("modest", "hungry"):
        points = tracking.client.get_metric_history(stored.run_id, f"{phase}/train_loss")
        newest = {point.step: point.value for point in sorted(points, key=lambda p: p.timestamp)}
        losses = {one.epoch: one.train_loss for one in info.training.losses if one.phase == phase}
        assert newest == pytest.approx(losses)


@pytest.mark.slow
def test_a_halved_batch_is_kept_after_a_kill(
    here: Settings,
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    hungry: DetectorSeed,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = {"hungry": {"epochs": 12, "batch_size": 8}}
    longer = here.model_copy(update={"detectors": own})

    def train() -> TrainedDetector:
        category, data = plate
        return train_detector(category, hungry, data=data, settings=longer)

    killer = threading.Thread(target=kill_after_halving, args=(here.state_dir,), daemon=True)
    killer.start()
    with pytest.raises(TrainingError, match="SIGKILL"):
        train()
    killer.join()
    caplog.clear()
    stored = train()
    assert "Retrying" not in caplog.text
    tags = tracking.tags(stored.run_id)
    assert tags["stillwatch.resumed"] == "true"
    assert tags["stillwatch.batch_halved"] == "batch_size=4"


def kill_after_halving(state_dir: Path) -> None:
    while not list(state_dir.glob("trainings/*/half_batch.json")):
        time.sleep(0.01)
    (checkpoint,) = state_dir.glob("trainings/*/checkpoint/*.safetensors")
    of_the_whole = checkpoint.stat().st_ino
    while checkpoint.stat().st_ino == of_the_whole:
        time.sleep(0.01)
    kill_trainings()


def test_an_unknown_detector_starts_no_run(
    here: Settings, tracking: Tracking, plate: tuple[ExaminedCategory, DataVersion]
) -> None:
    category, data = plate
    with pytest.raises(DetectorError, match="did you mean 'stfpm'"):
        train_detector(category, DetectorSeed("stfmp", 0), data=data, settings=here)
    assert tracking.find_runs("plate", {}) == []


def test_a_method_that_needs_no_teacher_asks_for_no_weights(
    here: Settings, tracking: Tracking, plate: tuple[ExaminedCategory, DataVersion]
) -> None:
    category, data = plate
    detector, teacher = "uninformed_students", "not_on_this_machine"
    own = {
        "student_input": "pixels",
        "patch_sizes": (33,),
        "least_steps": 1,
        "teacher_steps": 1,
        "teacher_batch_size": 12,
        "knowledge_weight": 0,
        "metric_weight": 1,
    }
    for name, settings in ((detector, own), ("autoencoder", {})):
        assert detector_class(name).teacher_strides(teacher, settings) == ()
    without = here.model_copy(
        update={"teacher": TeacherSettings(name=teacher), "detectors": {detector: own}}
    )
    trained = train_detector(category, DetectorSeed(detector, 0), data=data, settings=without)
    assert tracking.tags(trained.run_id)["stillwatch.teacher"] == "none"
    with tracking.artifact(trained.run_id, BUNDLE) as folder:
        bundle = read_bundle(folder)
        assert bundle.info.teacher.name == "none"
        images = ImageStore.open(category.store).images[:2]
        assert len(list(Inspector(bundle, load_scorer(bundle, "cpu")).inspect(images))) == 2


class TestIdentity:
    parts: dict[str, Any] = {  # noqa: RUF012
        "training_digest": "c",
        "detector": "stfpm",
        "method_version": 1,
        "detector_settings": {"epochs": 2},
        "seed": 0,
        "tiles_per_epoch": 400,
        "geometry": {"scale": None},
        "white_level": 255,
        "teacher": "efficientnet_lite0",
        "teacher_digest": "t",
        "photographs": None,
    }

    def test_every_argument_changes_the_fingerprint(self) -> None:
        others = {
            "training_digest": "d",
            "detector": "reverse_distillation",
            "method_version": 2,
            "detector_settings": {"epochs": 3},
            "seed": 1,
            "tiles_per_epoch": 100,
            "geometry": {"scale": 0.5},
            "white_level": 4095,
            "teacher": "resnet18",
            "teacher_digest": "u",
            "photographs": "p",
        }
        assert others.keys() == inspect.signature(fingerprint).parameters.keys()
        made = [fingerprint(**self.parts | {key: value}) for key, value in others.items()]
        assert len({fingerprint(**self.parts), *made}) == len(others) + 1

    def test_the_order_of_the_arguments_does_not_matter(self) -> None:
        turned = dict(reversed(list(self.parts.items())))
        assert fingerprint(**turned) == fingerprint(**self.parts)
        assert len(fingerprint(**self.parts)) == 64

    def test_the_evaluation_depends_on_alphas_evaluation_groups_and_test_files(self) -> None:
        others: list[dict[str, Any]] = [
            {"calibration": {"alpha_reject": 0.04}},
            {"evaluation": {"size": 128}},
            {"split": {"group_pattern": "a"}},
        ]
        keys = {evaluation_key(Settings.model_validate(one), "t") for one in ({}, *others)}
        keys.add(evaluation_key(Settings(), "u"))
        assert len(keys) == 5
        free = {
            "gate": {"margin": 0.1},
            "retrain": {"select_by": "aupro"},
            "checks": {"min_side": 8},
        }
        assert evaluation_key(Settings.model_validate(free), "t") == evaluation_key(Settings(), "t")
