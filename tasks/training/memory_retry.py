"""Retry a training that ran out of device memory with half the batch size.

The smaller batch size is stored beside the checkpoint, so that a training that is killed during the
retry continues with it. The original size would run out of memory again and overwrite the
checkpoint.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillwatch.detectors import parse_detector_settings
from stillwatch.errors import DeviceMemoryError, SettingsError
from stillwatch.files import write_json
from stillwatch.training.job import TrainingJob


def as_last_tried(job: TrainingJob) -> TrainingJob:
    """Return the job with the batch size of its last attempt."""
    stored = _retry_file(job)
    if not stored.exists():
        return job
    settings = json.loads(stored.read_bytes())
    return job.model_copy(update={"detector_settings": settings})


def with_half_batch(job: TrainingJob, error: DeviceMemoryError) -> TrainingJob:
    """Halve the batch size that did not fit into memory, and store the smaller size.

    Raises:
        DeviceMemoryError: ``error`` itself, if no batch size is to blame, if the size was halved
            before, or if the detector does not allow a smaller one.
    """
    setting = error.batch_setting
    if setting is None or _retry_file(job).exists():
        raise error
    changed = {**job.detector_settings, setting: job.detector_settings[setting] // 2}
    try:
        parse_detector_settings(job.detector, changed)
    except SettingsError:
        raise error from None
    write_json(_retry_file(job), changed)
    return job.model_copy(update={"detector_settings": changed})


def halved_batch(job: TrainingJob, trained: Mapping[str, Any]) -> str:
    """Name the halved settings, for example ``batch_size=4``; empty if there are none.

    Args:
        job: as requested.
        trained: all detector settings with which the job was trained.
    """
    changed = {key: value for key, value in trained.items() if job.detector_settings[key] != value}
    return ", ".join(f"{key}={value}" for key, value in changed.items())


def _retry_file(job: TrainingJob) -> Path:
    return job.checkpoint.with_name("half_batch.json")
