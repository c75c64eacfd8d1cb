"""Which images a trained detector has learnt from: written at training, asked by the gate."""

import json
import tempfile
from pathlib import Path

from stillwatch.errors import TrackingError
from stillwatch.files import write_json
from stillwatch.images.manifest import Manifest
from stillwatch.images.split import PARTS
from tasks.tracking import Tracking

LEARNT_FROM_FILE = "learnt_from.json"


def record_learnt_from(tracking: Tracking, run_id: str, manifest: Manifest) -> None:
    """Put the digests of all images of train, validation and calibration into a run.

    Raises:
        TrackingError: the store does not answer or cannot be written.
    """
    digests = {part: sorted(r.md5 for r in manifest.rows if r.part == part) for part in PARTS}
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
        write_json(Path(folder) / LEARNT_FROM_FILE, digests)
        tracking.log_folder(run_id, Path(folder))


def read_learnt_from(tracking: Tracking, run_id: str) -> frozenset[str] | None:
    """The md5s (hexadecimal) of the images that a run's detector learnt from; None: not recorded.

    Raises:
        TrackingError: the record is damaged, or the store does not answer.
    """
    if LEARNT_FROM_FILE not in tracking.artifact_names(run_id):
        return None
    with tracking.artifact(run_id, LEARNT_FROM_FILE) as path:
        try:
            parts: dict[str, list[str]] = json.loads(path.read_bytes())
            return frozenset(md5 for part in PARTS for md5 in parts[part])
        except (ValueError, KeyError) as error:
            raise TrackingError(
                f"{LEARNT_FROM_FILE} of run {run_id} at {tracking.uri} is damaged ({error!r}). "
                "Delete the file in the run's artifacts: today's split stands in for it."
            ) from error
