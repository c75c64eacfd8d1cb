"""The exceptions of stillwatch.

::

    StillwatchError
    ├── SettingsError      params.yaml or a command-line value
    ├── LayoutError        the folder tree of an image set
    ├── ImageError         one image file
    │   ├── UnknownFormatError  because it is no PNG, JPEG, BMP or TIFF
    │   └── ImageTooLargeError  because it has more pixels than are allowed
    ├── SplitError         the assignment of normals to train, validation, calibration
    ├── TeacherError       pretrained weights: missing, wrong digest, unknown name
    ├── DetectorError      a method, its settings, or inputs that it cannot take
    ├── TrainingError      a training that ended without a detector
    │   └── DeviceMemoryError  because its device has not enough memory for a batch
    ├── CalibrationError   a threshold that cannot be given with its bound
    ├── BundleError        the folder of a trained detector: damaged, changed, or of a newer schema
    ├── ExportError        a graph that cannot be made, or whose scores differ from the detector's
    ├── StorageError       a folder that cannot be written, a full disk
    ├── WorkspaceError     git and DVC
    ├── ValidationError    an image set that failed a critical check
    ├── TrackingError      MLflow: store, artifacts, registry
    │   └── ArtefactError      because a stored file differs from the one that was stored
    ├── PromotionError     a version that may not become champion, or no earlier champion
    └── ServerError        a server that does not start or does not answer

Every message names the file or the setting, and says what is wrong and what to do.
"""


class StillwatchError(Exception):
    """Base class of the errors that a user can fix."""


class SettingsError(StillwatchError):
    """A setting is unknown, of the wrong type or out of range."""


class LayoutError(StillwatchError):
    """A folder tree is not a usable MVTec-layout image set."""


class ImageError(StillwatchError):
    """One image file cannot be used."""


class UnknownFormatError(ImageError):
    """A file is not an image of a format that stillwatch reads."""


class ImageTooLargeError(ImageError):
    """An image has more pixels than are allowed; it was not decoded."""


class SplitError(StillwatchError):
    """The split file is damaged or contradicts the images."""


class TeacherError(StillwatchError):
    """A teacher is unknown, or its weights are missing or not the expected ones."""


class DetectorError(StillwatchError):
    """A detector is unknown or cannot work with its settings, teacher or inputs."""


class TrainingError(StillwatchError):
    """A training ended without a usable detector."""


class DeviceMemoryError(TrainingError):
    """A batch does not fit into the device's memory."""

    def __init__(self, message: str, batch_setting: str | None = None) -> None:
        """Store the detector's setting that makes the batch smaller; None if there is none."""
        super().__init__(message)
        self.batch_setting = batch_setting


class CalibrationError(StillwatchError):
    """A threshold cannot be given with the false-alarm bound that was asked for."""


class BundleError(StillwatchError):
    """A bundle is damaged, incomplete or of a newer schema."""


class ExportError(StillwatchError):
    """A detector cannot be exported, or the scores of its graph differ from the detector's."""


class StorageError(StillwatchError):
    """A folder cannot be written to, or the disk is full."""


class WorkspaceError(StillwatchError):
    """The git + DVC workspace is in a state in which nothing can be versioned."""


class ValidationError(StillwatchError):
    """A category failed a critical check and must not be trained on."""


class TrackingError(StillwatchError):
    """MLflow cannot be reached, or a stored file differs from the one that was stored."""


class ArtefactError(TrackingError):
    """A file in MLflow differs from the one that was stored; trying again does not help."""


class PromotionError(StillwatchError):
    """A version may not become champion, or there is no earlier champion to restore."""


class BelowFloorsError(PromotionError):
    """A version misses a floor, and nobody said why it shall become champion in spite of that."""


class ServerError(StillwatchError):
    """A server could not be started or does not answer."""
