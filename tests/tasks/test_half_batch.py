from pathlib import Path
from typing import Any

import pytest

from stillwatch.detectors import detector_class
from stillwatch.errors import DeviceMemoryError
from stillwatch.settings import CalibrationSettings, TeacherSettings, TrainingSettings
from stillwatch.training_job import TrainingJob
from tasks.half_batch import with_half_batch


def make_job(**settings: Any) -> TrainingJob:
    detector = "uninformed_students"
    return TrainingJob(
        category="plate",
        detector=detector,
        detector_settings=detector_class(detector).Settings(**settings).model_dump(mode="json"),
        teacher=TeacherSettings(),
        training=TrainingSettings(),
        calibration=CalibrationSettings(),
        image_size=64,
        white_level=255,
        store=Path("store"),
        parts={},
        groups={},
        checkpoint=Path("checkpoint"),
        shared=Path("shared"),
        bundle=Path("bundle"),
        fingerprint="f" * 64,
        provenance={},
    )


def test_only_the_batch_that_did_not_fit_becomes_smaller() -> None:
    job = make_job(batch_size=5, teacher_batch_size=32)
    smaller, change = with_half_batch(job, DeviceMemoryError("full", "teacher_batch_size"))
    assert change == "teacher_batch_size=16"
    assert smaller.detector_settings == {**job.detector_settings, "teacher_batch_size": 16}


@pytest.mark.parametrize(
    ("setting", "settings"),
    [
        (None, {}),
        ("batch_size", {"batch_size": 1}),
        ("teacher_batch_size", {"teacher_batch_size": 3}),  # of one patch nothing can be learnt
    ],
)
def test_what_cannot_be_smaller_fails_as_it_did(
    setting: str | None, settings: dict[str, int]
) -> None:
    error = DeviceMemoryError("full", setting)
    with pytest.raises(DeviceMemoryError) as raised:
        with_half_batch(make_job(**settings), error)
    assert raised.value is error
