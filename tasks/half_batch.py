"""What did not fit into a device's memory, with half the batch."""

from stillwatch.detectors import parse_detector_settings
from stillwatch.errors import DeviceMemoryError, SettingsError
from stillwatch.training_job import TrainingJob


def with_half_batch(job: TrainingJob, error: DeviceMemoryError) -> tuple[TrainingJob, str]:
    """The job with half of the batch size that did not fit, and what was changed, in words.

    Raises:
        DeviceMemoryError: ``error``, where no batch size would help or it may not be smaller.
    """
    setting = error.batch_setting
    if setting is None:
        raise error
    half = job.detector_settings[setting] // 2
    changed = {**job.detector_settings, setting: half}
    try:
        parse_detector_settings(job.detector, changed)
    except SettingsError:
        raise error from None
    return job.model_copy(update={"detector_settings": changed}), f"{setting}={half}"
