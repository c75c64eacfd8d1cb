"""Compare the champion with the winner of a retraining on the test images of the current data."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from stillwatch.bundle import Bundle, read_bundle
from stillwatch.comparison.comparison import Comparison, compare
from stillwatch.comparison.paired_bootstrap import Candidate, measured, unseen
from stillwatch.errors import BundleError, PromotionError, StillwatchError, TrackingError
from stillwatch.evaluation.evaluation import TestImages, inspect_test
from stillwatch.files import storage_errors
from stillwatch.images.store import on_disk
from stillwatch.inference.inspector import Inspector
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.evaluation.pictures import gallery_items
from stillwatch.tasks.evaluation.test_set import image_file, read_test_set
from stillwatch.tasks.evaluation.winner import Choice
from stillwatch.tasks.promotion.disagreement import Inspection, record_disagreement
from stillwatch.tasks.promotion.history import now
from stillwatch.tasks.registry.artefact_check import is_of_the_artefact, registered_bundle
from stillwatch.tasks.registry.versions import CHALLENGER, CHAMPION
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.entries import JsonArtifact
from stillwatch.tasks.training.slots import evaluation_device
from stillwatch.tasks.training.training_images import read_training_images

COMPARISON_RECORD = JsonArtifact(
    "comparison.json",
    "Delete the file in the run's artifacts: the gate's sentence stands in for it.",
)


def compare_with(
    tracking: Tracking,
    champion: ModelVersion,
    challenger: ModelVersion,
    choice: Choice,
    category: ExaminedCategory,
    settings: Settings,
) -> tuple[Comparison | None, str]:
    """Compare the registered winner with the champion on the same test images.

    Champion and challenger are read from the registry, the other competing detectors from their
    runs. The figures of the winner are those of the first seed of its detector. Every resample
    repeats the choice among the detectors by the mean over their seeds, so all seeds inspect the
    images, within today's region of interest. Test images that a detector was trained on are left
    out, and so are the synthetic anomalies made from them. The comparison and its pictures are
    stored in the winner's run.

    Returns:
        The comparison and its sentence; or None and why a version cannot inspect the images.

    Raises:
        StillwatchError: another competing detector cannot inspect the images.
    """
    comparison = None
    try:
        comparison = _compare(tracking, champion, challenger, choice, category, settings)
        sentence = comparison.sentence
    except PromotionError as error:
        sentence = f"not compared: {error}"
    record = {
        "champion": int(champion.version),
        "champion_run": champion.run_id,
        "challenger": int(challenger.version),
        "run": choice.winner.run_id,
        "data_version": choice.winner.data_version,
        "compared": now(),
        "sentence": sentence,
        **(comparison.record() if comparison else {}),
    }
    COMPARISON_RECORD.write(tracking, choice.winner.run_id, record)
    return comparison, sentence


def _compare(
    tracking: Tracking,
    champion: ModelVersion,
    challenger: ModelVersion,
    choice: Choice,
    category: ExaminedCategory,
    settings: Settings,
) -> Comparison:
    # Comparisons are rare, and torch takes seconds to import.
    from stillwatch.inference.torch_scorer import load_scorer
    from stillwatch.machine.devices import choose_device

    winner = choice.winner
    # A missing device is not an error of the champion.
    choose_device(settings.training.device)
    test = read_test_set(category, settings.evaluation)
    region = category.read_region()
    with errors_blamed_on(champion):
        trained_on = read_training_images(tracking, str(champion.run_id))
    trained_on = trained_on.union(
        *(read_training_images(tracking, one.run_id) for one in choice.competing)
    )
    kept, dropped = unseen(_md5s(category, test), trained_on)

    def inspected(bundle: Bundle) -> tuple[Candidate, Inspection]:
        with evaluation_device(settings) as device:
            inspector = Inspector(
                bundle,
                load_scorer(bundle, device),
                max_megapixels=settings.images.max_megapixels,
            )
            inspector.region = region
            shown = _as_trained(inspector, test, category)
            found = inspect_test(inspector, shown, settings.evaluation.size)
        items = compress(gallery_items(bundle.info, shown, found), kept)
        candidate = measured(bundle.info.detector.name, found, test, kept)
        return candidate, Inspection(list(items), bundle.info.calibration.reject.value)

    with errors_blamed_on(champion):
        of_champion = inspected(registered_bundle(tracking, champion))
    with errors_blamed_on(challenger, CHALLENGER, otherwise="delete the version"):
        of_challenger = inspected(registered_bundle(tracking, challenger))
    candidates: list[Candidate] = []
    for one in choice.competing:
        if one.run_id == winner.run_id:
            candidates.append(of_challenger[0])
            continue
        with tracking.artifact(one.run_id, BUNDLE) as folder:
            # The inspection holds all anomaly maps: keep it only for champion and challenger.
            candidates.append(inspected(read_bundle(folder))[0])
    comparison = compare(
        of_champion[0],
        candidates,
        select_by=settings.retrain.select_by,
        settings=settings.gate,
        dropped=dropped,
        winner=winner.detector,
    )
    number = int(champion.version)
    record_disagreement(
        tracking, winner.run_id, of_champion[1], of_challenger[1], champion_version=number
    )
    return comparison


@contextmanager
def errors_blamed_on(
    version: ModelVersion, alias: str = CHAMPION, otherwise: str = "delete the alias champion"
) -> Iterator[None]:
    """Name the version in errors of its artefact and of the store, and tell the two apart."""
    try:
        yield
    except StillwatchError as error:
        if is_of_the_artefact(error):
            raise PromotionError(
                f"the {alias}, version {version.version}, cannot be inspected with: {error}"
            ) from error
        if not isinstance(error, (TrackingError, BundleError)):
            raise  # a full disk, for example, which no alias changes
        raise TrackingError(
            f"the {alias}, version {version.version}, cannot be compared with now: {error} If "
            f"its files are gone for good, restore them from a backup, or {otherwise} in MLflow, "
            "and retrain."
        ) from error


def _md5s(category: ExaminedCategory, test: TestImages) -> list[str]:
    """The digests of the test images; a synthetic anomaly has that of its normal."""
    by_path = {row.path: row.md5 for row in category.manifest.rows}
    return [by_path[test.made_from.get(path, path)] for path in test.paths]


def _as_trained(inspector: Inspector, test: TestImages, category: ExaminedCategory) -> TestImages:
    """The test images scaled and with the white level that the bundle was trained with."""
    info = inspector.bundle.info
    if (info.geometry, info.white_level) == (category.geometry, category.manifest.white_level):
        return test
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        files = [
            image_file(category, test, number, Path(made)) for number in range(len(test.paths))
        ]
        if None in files or (test.synthetic and info.geometry.scale is not None):
            raise PromotionError(
                f"the images of {info.category} are scaled otherwise than those that the version "
                "was trained on, and synthetic anomalies exist at one scale only. Add real defects "
                "to test/, or let a person decide."
            )
        # Together, large images would not fit into memory.
        with storage_errors(category.store), tempfile.TemporaryFile(dir=category.store) as pixels:
            images = [on_disk(inspector.read(file), pixels) for file in files if file is not None]
    return replace(test, images=images)
