"""Which images a trained detector has learnt from, and what they look like: written at training.

The gate asks for the first, the drift watch for the second.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillwatch.errors import TrackingError
from stillwatch.files import write_json
from stillwatch.images.manifest import Manifest
from stillwatch.images.split import PARTS
from tasks.tracking import Tracking

LEARNT_FROM_FILE = "learnt_from.json"
_APPEARANCE = "appearance"


@dataclass(frozen=True)
class LearntAppearance:
    """How bright and how sharp the images are, one value each, as in the manifest."""

    brightness: tuple[float, ...]
    """Mean grey values, 0 to 255."""
    sharpness: tuple[float, ...]
    """Variances of the Laplacian."""


def record_learnt_from(tracking: Tracking, run_id: str, manifest: Manifest) -> None:
    """Put digests, brightness and sharpness of train, validation and calibration into a run.

    Raises:
        TrackingError: the store does not answer or cannot be written.
    """
    record: dict[str, Any] = {
        part: sorted(row.md5 for row in manifest.rows if row.part == part) for part in PARTS
    }
    rows = [row for row in manifest.rows if row.part in PARTS]
    record[_APPEARANCE] = {
        "brightness": [row.mean for row in rows],
        "sharpness": [row.sharpness for row in rows],
    }
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
        write_json(Path(folder) / LEARNT_FROM_FILE, record)
        tracking.log_folder(run_id, Path(folder))


def read_learnt_from(tracking: Tracking, run_id: str) -> frozenset[str] | None:
    """The md5s (hexadecimal) of the images that a run's detector learnt from; None: not recorded.

    Raises:
        TrackingError: the record is damaged, or the store does not answer.
    """
    record = _read(tracking, run_id)
    if record is None:
        return None
    try:
        return frozenset(md5 for part in PARTS for md5 in record[part])
    except KeyError as error:
        raise _damaged(tracking, run_id, error) from error


def read_appearance(tracking: Tracking, run_id: str) -> LearntAppearance | None:
    """What the images look like that a run's detector learnt from; None: not recorded.

    Raises:
        TrackingError: the record is damaged, or the store does not answer.
    """
    recorded = (_read(tracking, run_id) or {}).get(_APPEARANCE)
    if recorded is None:
        return None
    try:
        return LearntAppearance(tuple(recorded["brightness"]), tuple(recorded["sharpness"]))
    except (KeyError, TypeError) as error:
        raise _damaged(tracking, run_id, error) from error


def _read(tracking: Tracking, run_id: str) -> dict[str, Any] | None:
    if LEARNT_FROM_FILE not in tracking.artifact_names(run_id):
        return None
    with tracking.artifact(run_id, LEARNT_FROM_FILE) as path:
        try:
            record: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise _damaged(tracking, run_id, error) from error
    return record


def _damaged(tracking: Tracking, run_id: str, error: Exception) -> TrackingError:
    return TrackingError(
        f"{LEARNT_FROM_FILE} of run {run_id} at {tracking.uri} is damaged ({error!r}). "
        "Delete the file in the run's artifacts: today's split stands in for it."
    )
