"""Which images a trained detector has learnt from, and what they look like: written at training.

The gate asks for the first, the drift watch for the second.
"""

from dataclasses import dataclass
from typing import Any

from stillwatch.images.manifest import Manifest
from stillwatch.images.split import PARTS
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.entries import JsonArtifact

LEARNT_FROM = JsonArtifact(
    "learnt_from.json",
    "Delete the file in the run's artifacts: today's split stands in for it.",
)
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
    LEARNT_FROM.write(tracking, run_id, record)


def read_learnt_from(tracking: Tracking, run_id: str) -> frozenset[str] | None:
    """The md5s (hexadecimal) of the images that a run's detector learnt from; None: not recorded.

    Raises:
        TrackingError: the record is damaged, or the store does not answer.
    """
    record = LEARNT_FROM.read(tracking, run_id)
    if record is None:
        return None
    try:
        return frozenset(md5 for part in PARTS for md5 in record[part])
    except KeyError as error:
        raise LEARNT_FROM.damaged(tracking, run_id, error) from error


def read_appearance(tracking: Tracking, run_id: str) -> LearntAppearance | None:
    """What the images look like that a run's detector learnt from; None: not recorded.

    Raises:
        TrackingError: the record is damaged, or the store does not answer.
    """
    recorded = (LEARNT_FROM.read(tracking, run_id) or {}).get(_APPEARANCE)
    if recorded is None:
        return None
    try:
        return LearntAppearance(tuple(recorded["brightness"]), tuple(recorded["sharpness"]))
    except (KeyError, TypeError) as error:
        raise LEARNT_FROM.damaged(tracking, run_id, error) from error
