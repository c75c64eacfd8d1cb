"""Is a registered version still what was registered? Asked before it becomes champion or serves."""

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from stillwatch.bundle import Bundle
from stillwatch.errors import (
    ArtefactError,
    BundleError,
    DetectorError,
    ImageError,
    PromotionError,
    SettingsError,
    StillwatchError,
    TeacherError,
)
from stillwatch.inference.parity import Scores, difference, tolerance_of
from stillwatch.settings import Settings
from stillwatch.tasks.evaluation.scores import read_scores
from stillwatch.tasks.registry.reload import FreshProcess
from stillwatch.tasks.registry.versions import fetch_bundle, version_file
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.tags import threshold_tags
from stillwatch.tasks.training.slots import spare_device

_EXAMPLE_FILE = "input_example.json"
_LONGEST_SECONDS = 300.0
"""Far more than two images take on a CPU; a rollback may be waiting for the category's lock."""
_TRY_AGAIN = "The champion was not changed. Run 'stillwatch doctor' and try again"
_OF_THE_ARTEFACT = (
    ArtefactError,
    BundleError,
    DetectorError,
    ImageError,
    SettingsError,
    TeacherError,
)
_ALTERED = (
    "its artefact is not what was registered",
    "Choose another version ('stillwatch models'), or restore the artefact from a backup.",
)
_NOT_LOADED = (
    "what is installed here, which would serve it, cannot load it",
    "Choose another version: 'stillwatch models' lists them.",
)


@dataclass(frozen=True)
class Examples:
    """The test images that were registered with a version: a normal, and an anomaly if any."""

    images: tuple[bytes, ...]
    """Image files."""
    evaluated: Scores
    """What the version's evaluation said of them."""


def check_artefact(tracking: Tracking, version: ModelVersion, settings: Settings) -> None:
    """Check digests and thresholds, reload the version in a fresh process and score its examples.

    They must get the scores and verdicts of its evaluation. The fresh process uses the code that
    was registered with the version; that the installed code, which serves, can load it is checked,
    too. No image set is needed. It waits for no training: without room on a GPU it is done on the
    CPU.

    Args:
        tracking: the registry.
        version: of the registry.
        settings: name the device.

    Raises:
        PromotionError: the artefact is not what was registered, or cannot be loaded here.
        StillwatchError: it could not be checked: the store does not answer, or it took too long.
    """
    # Torch takes seconds to import, and what only reads the registry needs none.
    from stillwatch.inference.torch_scorer import load_scorer

    with FreshProcess() as fresh, tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
        with _unfit_for_champion(version, *_ALTERED):
            bundle = registered_bundle(tracking, version)
            examples = read_examples(tracking, version)
        with _unfit_for_champion(version, *_NOT_LOADED):
            load_scorer(bundle, "cpu")
        files = [Path(folder) / f"{number}.png" for number in range(len(examples.images))]
        for file, image in zip(files, examples.images, strict=True):
            file.write_bytes(image)
        with spare_device(settings) as device:
            scored = fresh.scores(
                tracking.uri,
                f"models:/{version.name}/{version.version}",
                files,
                device=device,
                timeout_seconds=_LONGEST_SECONDS,
                if_slow=f"{_TRY_AGAIN} when the store and this machine have less to do.",
                if_broken=f"{_TRY_AGAIN}; if it stays so, choose another version ('stillwatch "
                "models'), or restore the artefact from a backup.",
            )
        with _unfit_for_champion(version, *_ALTERED):
            check_examples(bundle, examples, scored)


def is_of_the_artefact(error: StillwatchError) -> bool:
    """Whether an error tells of a model itself, so that it would be the same at the next try."""
    # A file that cannot be read may be on a share that is gone for a moment.
    return isinstance(error, _OF_THE_ARTEFACT) and not isinstance(error.__cause__, OSError)


def registered_bundle(
    tracking: Tracking, version: ModelVersion, into: Path | None = None
) -> Bundle:
    """The bundle of a version, if its digests and thresholds are those that were registered.

    Args:
        tracking: the registry.
        version: of the registry.
        into: as for ``version_file``.

    Raises:
        ArtefactError: the thresholds are others.
        BundleError: a file in it is damaged or exchanged.
        TrackingError: the registry does not answer.
    """
    bundle = fetch_bundle(tracking, f"models:/{version.name}/{version.version}", into)
    thresholds = threshold_tags(*_thresholds(bundle))
    recorded = {tag: version.tags.get(tag) for tag in thresholds}
    if thresholds != recorded:
        raise ArtefactError(
            f"its thresholds are {_listed(thresholds)} and were {_listed(recorded)}."
        )
    return bundle


def read_examples(tracking: Tracking, version: ModelVersion, into: Path | None = None) -> Examples:
    """The images that were registered with a version, and their evaluated scores.

    Args:
        tracking: the registry.
        version: of the registry.
        into: as for ``version_file``.

    Raises:
        ArtefactError: the file that holds them is damaged.
        TrackingError: there are none, or the registry does not answer.
    """
    path = version_file(tracking, version.name, int(version.version), _EXAMPLE_FILE, into)
    try:
        images = tuple(base64.b64decode(row[0]) for row in json.loads(path.read_bytes())["data"])
    except (ValueError, LookupError, TypeError) as error:
        raise ArtefactError(f"its {_EXAMPLE_FILE} is damaged ({error!r}).") from error
    # As ``register`` chose them: the first normal and the first anomaly.
    rows = read_scores(tracking, str(version.run_id))
    labels = [row["label"] for row in rows]
    chosen = [rows[number] for number in sorted(labels.index(label) for label in set(labels))]
    scores = Scores(tuple(r["score"] for r in chosen), tuple(r["verdict"] for r in chosen))
    return Examples(images, scores)


def check_examples(bundle: Bundle, examples: Examples, scored: Scores) -> None:
    """Refuse a reloaded bundle that does not score its examples as it was evaluated.

    Raises:
        ArtefactError: it does not.
    """
    thresholds = _thresholds(bundle)
    tolerance = tolerance_of(thresholds[0], examples.evaluated.scores)
    problem = difference(examples.evaluated, scored, thresholds, tolerance)
    if problem is not None:
        raise ArtefactError(f"reloaded it does not score as it was evaluated: {problem}.")


def _listed(tags: Mapping[str, str | None]) -> str:
    return " and ".join(str(value) for value in tags.values())


def _thresholds(bundle: Bundle) -> tuple[float, float]:
    calibration = bundle.info.calibration
    return calibration.reject.value, calibration.review.value


@contextmanager
def _unfit_for_champion(version: ModelVersion, why: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except StillwatchError as error:
        if not is_of_the_artefact(error):
            raise
        raise PromotionError(
            f"version {version.version} of {version.name} may not become champion, for {why}: "
            f"{error} {remedy}"
        ) from error
