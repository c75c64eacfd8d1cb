from pathlib import Path
from typing import Any

import pytest

from stillwatch.detectors import detector_class
from stillwatch.errors import DeviceMemoryError
from stillwatch.settings import CalibrationSettings, TeacherSettings, TrainingSettings
from stillwatch.tasks.training.memory_retry import as_last_tried, halved_batch, with_half_batch
from stillwatch.training.job import TrainingJob


def make_job(folder: Path, **settings: Any) -> TrainingJob:
    detector = "uninformed_students"
    return TrainingJob(
        category="plate",
        detector=detector,
        detector_settings=detector_class(detector).Settings(**settings).model_dump(mode="json"),
        teacher=TeacherSettings(),
        training=TrainingSettings(),
        calibration=CalibrationSettings(),
        white_level=255,
        store=Path("store"),
        parts={},
        region=None,
        groups={},
        checkpoint=folder / "training" / "checkpoint",
        shared=Path("shared"),
        bundle=Path("bundle"),
        fingerprint="f" * 64,
        provenance={},
    )


def test_the_batch_size_that_did_not_fit_is_halved_also_at_the_next_start(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, batch_size=5, teacher_batch_size=32)
    assert as_last_tried(job) == job
    smaller = with_half_batch(job, DeviceMemoryError("full", "teacher_batch_size"))
    assert smaller.detector_settings == {**job.detector_settings, "teacher_batch_size": 16}
    assert halved_batch(job, smaller.detector_settings) == "teacher_batch_size=16"
    assert halved_batch(job, job.detector_settings) == ""
    assert as_last_tried(job) == smaller


def test_the_batch_size_is_halved_only_once(tmp_path: Path) -> None:
    job = make_job(tmp_path, batch_size=8)
    smaller = with_half_batch(job, DeviceMemoryError("full", "batch_size"))
    for at_work in (smaller, as_last_tried(job)):
        with pytest.raises(DeviceMemoryError, match="full again"):
            with_half_batch(at_work, DeviceMemoryError("full again", "batch_size"))


@pytest.mark.parametrize(
    ("setting", "settings"),
    [
        (None, {}),
        ("batch_size", {"batch_size": 1}),
        ("teacher_batch_size", {"teacher_batch_size": 3}),  # of one patch nothing can be learnt
    ],
)
def test_a_batch_size_that_cannot_be_halved_fails_with_the_same_error(
    setting: str | None, settings: dict[str, int], tmp_path: Path
) -> None:
    job, error = make_job(tmp_path, **settings), DeviceMemoryError("full", setting)
    with pytest.raises(DeviceMemoryError) as raised:
        with_half_batch(job, error)
    assert raised.value is error
    assert as_last_tried(job) == job
