"""What did not fit into a device's memory, with half the batch.

A training that was halved is remembered beside its checkpoint: after a kill it goes on with the
half, where the whole batch would not fit again and overwrite the checkpoint.
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
    """The job with half of the batch size, if that is how it was tried before, else as it is."""
    remembered = _memory(job)
    if not remembered.exists():
        return job
    settings = json.loads(remembered.read_bytes())
    return job.model_copy(update={"detector_settings": settings})


def with_half_batch(job: TrainingJob, error: DeviceMemoryError) -> TrainingJob:
    """The job with half of the batch size that did not fit, which is remembered.

    Raises:
        DeviceMemoryError: ``error``, where no batch size would help, it may not be smaller or was
            halved before.
        StorageError: the state folder cannot be written to.
    """
    setting = error.batch_setting
    if setting is None or _memory(job).exists():
        raise error
    changed = {**job.detector_settings, setting: job.detector_settings[setting] // 2}
    try:
        parse_detector_settings(job.detector, changed)
    except SettingsError:
        raise error from None
    write_json(_memory(job), changed)
    return job.model_copy(update={"detector_settings": changed})


def halved_batch(job: TrainingJob, trained: Mapping[str, Any]) -> str:
    """What of the job's settings was halved, for example ``batch_size=4``; empty if nothing was.

    Args:
        job: as it was asked for.
        trained: the settings with which it was trained, all of them.
    """
    changed = {key: value for key, value in trained.items() if job.detector_settings[key] != value}
    return ", ".join(f"{key}={value}" for key, value in changed.items())


def _memory(job: TrainingJob) -> Path:
    return job.checkpoint.with_name("half_batch.json")
