"""Is a registered version still what was registered? Asked before it becomes champion."""

import base64
import json
import tempfile
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import PromotionError, StillwatchError
from stillwatch.parity import Scores, difference, tolerance_of
from stillwatch.settings import Settings
from tasks.evaluate import read_scores
from tasks.parity import FreshProcess
from tasks.registry import fetch_bundle, version_file
from tasks.tracking import REVIEW_THRESHOLD, THRESHOLD, Tracking

_EXAMPLE_FILE = "input_example.json"


def check_artefact(tracking: Tracking, version: ModelVersion, settings: Settings) -> None:
    """Check digests and thresholds, reload the version in a fresh process and score its examples.

    The examples are the test images that were registered with it, a normal and an anomaly where
    there was one; they must get the scores and verdicts of its evaluation. No image set is needed.

    Args:
        tracking: the registry.
        version: of the registry.
        settings: device and timeout.

    Raises:
        PromotionError: the artefact is not what was registered.
    """
    model = f"models:/{version.name}/{version.version}"
    try:
        with FreshProcess() as fresh:
            bundle = fetch_bundle(tracking, model)
            reject, review = bundle.info.calibration.reject, bundle.info.calibration.review
            thresholds = (reject.value, review.value)
            recorded = (version.tags.get(THRESHOLD), version.tags.get(REVIEW_THRESHOLD))
            if tuple(map(repr, thresholds)) != recorded:
                raise _unfit(version, f"its thresholds are {thresholds} and were {recorded}")
            with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
                files = _examples(tracking, version, Path(folder))
                scored = fresh.scores(
                    tracking.uri,
                    model,
                    files,
                    device=settings.training.device,
                    timeout_seconds=60 * settings.training.timeout_minutes,
                )
        evaluated = _evaluated(tracking, version)
    except PromotionError:
        raise
    except StillwatchError as error:
        raise _unfit(version, str(error)) from error
    tolerance = tolerance_of(reject.value, evaluated.scores)
    problem = difference(evaluated, scored, thresholds, tolerance)
    if problem is not None:
        raise _unfit(version, f"reloaded it does not score as it was evaluated: {problem}")


def _examples(tracking: Tracking, version: ModelVersion, folder: Path) -> list[Path]:
    path = version_file(tracking, version.name, int(version.version), _EXAMPLE_FILE)
    rows = json.loads(path.read_bytes())["data"]
    files = []
    for number, row in enumerate(rows):
        files.append(folder / f"{number}.png")
        files[-1].write_bytes(base64.b64decode(row[0]))
    return files


def _evaluated(tracking: Tracking, version: ModelVersion) -> Scores:
    """Of the images that ``register`` took as examples: the first normal and the first anomaly."""
    rows = read_scores(tracking, str(version.run_id))
    labels = [row["label"] for row in rows]
    chosen = [rows[number] for number in sorted(labels.index(label) for label in set(labels))]
    return Scores(tuple(r["score"] for r in chosen), tuple(r["verdict"] for r in chosen))


def _unfit(version: ModelVersion, reason: str) -> PromotionError:
    return PromotionError(
        f"version {version.version} of {version.name} may not become champion, for its artefact is "
        f"not what was registered: {reason} Choose another version ('stillwatch models'), or "
        "restore the artefact from a backup."
    )
