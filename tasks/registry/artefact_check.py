"""Check that the artefact of a registered version was not changed since its registration."""

import base64
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from stillwatch.bundle import Bundle, read_bundle
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
from stillwatch.images.decode import shape_of
from stillwatch.inference.parity import Scores, difference, tolerance_of
from stillwatch.settings import Settings
from stillwatch.tasks.evaluation.scores import read_scores
from stillwatch.tasks.registry.reload import FreshProcess
from stillwatch.tasks.registry.reload_record import differences
from stillwatch.tasks.registry.versions import fetch_bundle, version_file
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.tags import threshold_tags
from stillwatch.tasks.training.slots import spare_device

_EXAMPLE_FILE = "input_example.json"
_LONGEST_SECONDS, _LONGEST_SECONDS_PER_MEGAPIXEL = 300.0, 10.0
"""Enough for two images on a slow CPU, and short, since the category is locked meanwhile."""
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
    """The example images of a version: a test normal and, if there is one, an anomaly."""

    images: tuple[bytes, ...]
    """Image files."""
    evaluated: Scores
    """Their scores in the evaluation of the version."""


def check_artefact(tracking: Tracking, version: ModelVersion, settings: Settings) -> str:
    """Check digests and thresholds, and reload the version where that can say something new.

    The registration reloaded the version already. Where the files of the model, the package
    versions, the installed code, the architecture and the device are those of the registration,
    another reload would repeat the same computation, and does not run.

    Returns:
        Whether the version was reloaded, and why, in one sentence.

    Raises:
        PromotionError: the artefact was changed, or cannot be loaded here.
        TrackingError: the check took too long.
    """
    with (
        tempfile.TemporaryDirectory(prefix="stillwatch-") as folder,
        _unfit_for_champion(version, *_ALTERED),
    ):
        package = version_file(tracking, version.name, int(version.version), "", Path(folder))
        _ensure_thresholds(tracking, read_bundle(package / "artifacts" / BUNDLE), version)
        different = differences(tracking, version, package, settings.training.device)
    title = f"version {version.version} of {version.name}"
    if not different:
        return (
            f"{title} was not reloaded: its files are those that were registered, and package "
            "versions, architecture and device are those of its registration"
        )
    _reload(tracking, version, settings)
    return (
        f"{title} was reloaded in a new process and its example images got the scores of the "
        f"evaluation; the reload was needed, since {', '.join(different)}"
    )


def _reload(tracking: Tracking, version: ModelVersion, settings: Settings) -> None:
    """Reload a version in a fresh process and score its examples.

    The examples must get the scores and verdicts of the evaluation. The fresh process uses the code
    that was registered with the version; the installed code, which serves, must be able to load the
    version as well. The check needs no image set and does not wait for a training: without a free
    GPU slot it uses the CPU.
    """
    # Torch takes seconds to import, and reading the registry does not need it.
    from stillwatch.inference.torch_scorer import load_scorer

    with FreshProcess() as fresh, tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
        with _unfit_for_champion(version, *_ALTERED):
            bundle = registered_bundle(tracking, version)
            examples = read_examples(tracking, version)
            longest_seconds = _longest_seconds(examples)
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
                timeout_seconds=longest_seconds,
                if_slow=f"{_TRY_AGAIN} when the store and this machine have less to do.",
                if_broken=f"{_TRY_AGAIN}; if it stays so, choose another version ('stillwatch "
                "models'), or restore the artefact from a backup.",
            )
        with _unfit_for_champion(version, *_ALTERED):
            check_examples(bundle, examples, scored)


def is_of_the_artefact(error: StillwatchError) -> bool:
    """Whether an error is caused by the artefact itself, so that another try fails as well."""
    # A file may be unreadable because its share is not mounted for a moment.
    return isinstance(error, _OF_THE_ARTEFACT) and not isinstance(error.__cause__, OSError)


def registered_bundle(
    tracking: Tracking, version: ModelVersion, into: Path | None = None
) -> Bundle:
    """The bundle of a version, with its digests and thresholds checked.

    ``into`` is as for ``version_file``.

    Raises:
        ArtefactError: the thresholds differ from those of the version's run.
        BundleError: a file is damaged or exchanged.
    """
    bundle = fetch_bundle(tracking, version.name, int(version.version), into)
    _ensure_thresholds(tracking, bundle, version)
    return bundle


def _ensure_thresholds(tracking: Tracking, bundle: Bundle, version: ModelVersion) -> None:
    thresholds, of_run = threshold_tags(*_thresholds(bundle)), tracking.tags(str(version.run_id))
    recorded = {tag: of_run.get(tag) for tag in thresholds}
    if thresholds != recorded:
        found, registered = (" and ".join(map(str, one.values())) for one in (thresholds, recorded))
        raise ArtefactError(f"its thresholds are {found} and were {registered}.")


def read_examples(tracking: Tracking, version: ModelVersion, into: Path | None = None) -> Examples:
    """The example images of a version, and their scores in the evaluation.

    ``into`` is as for ``version_file``.

    Raises:
        ArtefactError: the file of the examples is damaged.
    """
    path = version_file(tracking, version.name, int(version.version), _EXAMPLE_FILE, into)
    try:
        images = tuple(base64.b64decode(row[0]) for row in json.loads(path.read_bytes())["data"])
        if not images:
            raise ValueError("no image")
    except (ValueError, LookupError, TypeError) as error:
        raise ArtefactError(f"its {_EXAMPLE_FILE} is damaged ({error!r}).") from error
    # As ``register`` chose them: the first normal, and the first anomaly if it is a file.
    rows = read_scores(tracking, str(version.run_id))
    labels = [row["label"] for row in rows]
    chosen = [rows[number] for number in sorted(labels.index(label) for label in set(labels))]
    chosen = chosen[: len(images)]
    scores = Scores(tuple(r["score"] for r in chosen), tuple(r["verdict"] for r in chosen))
    return Examples(images, scores)


def check_examples(bundle: Bundle, examples: Examples, scored: Scores) -> None:
    """Raise an ``ArtefactError`` if a reloaded version does not score as in its evaluation."""
    thresholds = _thresholds(bundle)
    tolerance = tolerance_of(thresholds[0], examples.evaluated.scores)
    problem = difference(examples.evaluated, scored, thresholds, tolerance)
    if problem is not None:
        raise ArtefactError(f"reloaded it does not score as it was evaluated: {problem}.")


def _longest_seconds(examples: Examples) -> float:
    shapes = [
        shape_of(image, name="an example image", max_megapixels=math.inf)
        for image in examples.images
    ]
    megapixels = sum(height * width for height, width in shapes) / 1e6
    return _LONGEST_SECONDS + megapixels * _LONGEST_SECONDS_PER_MEGAPIXEL


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
