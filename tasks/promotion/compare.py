"""Champion and challengers, inspected anew on the same test images of the current data version."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from stillwatch.bundle import Bundle, read_bundle
from stillwatch.comparison.comparison import Comparison, compare
from stillwatch.comparison.paired_bootstrap import Candidate, measured, unseen
from stillwatch.errors import PromotionError, StillwatchError, TrackingError
from stillwatch.evaluation.evaluation import InspectedTest, TestImages, inspect_test
from stillwatch.inference.inspector import Inspector
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.evaluation.pictures import gallery_items
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.test_set import image_files, read_test_set
from stillwatch.tasks.promotion.disagreement import Inspection
from stillwatch.tasks.registry.artefact_check import is_of_the_artefact, registered_bundle
from stillwatch.tasks.registry.versions import CHALLENGER, CHAMPION
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.entries import JsonArtifact
from stillwatch.tasks.training.slots import evaluation_device
from stillwatch.tasks.training.training_images import read_learnt_from

COMPARISON_RECORD = JsonArtifact(
    "comparison.json",
    "Delete the file in the run's artifacts: the gate's sentence stands in for it.",
)


@dataclass(frozen=True)
class Compared:
    """A comparison, and what it rests on."""

    comparison: Comparison
    champion: Inspection
    challenger: Inspection


def compare_with_champion(
    tracking: Tracking,
    champion: ModelVersion,
    challenger: ModelVersion,
    winner: DetectorResult,
    competing: Sequence[DetectorResult],
    category: ExaminedCategory,
    settings: Settings,
) -> Compared:
    """Inspect the test images with the champion and all that competed, and compare.

    Champion and challenger are what the registry holds; the others that competed are not registered
    and come from their runs.

    The figures compared are the winner's, the first seed of its detector. In the resamples the
    choice is repeated as it was made, among detectors by the mean over their seeds; so all seeds
    inspect, though none but the first may be promoted.

    Test images that any of them learnt from are left out, and so are anomalies made from these. A
    champion trained before that was recorded is taken to have learnt from the images that are in
    train, validation and calibration today.

    Args:
        tracking: the store and registry.
        champion: the version in production.
        challenger: the winner as it is registered; it is what may be promoted.
        winner: of this retraining.
        competing: the detectors that it was chosen from with all their seeds, itself among them;
            the first seed of a detector comes before its others.
        category: on whose test images they are compared.
        settings: of the gate, the evaluation and the device.

    Raises:
        PromotionError: the champion or the challenger cannot inspect these images.
        StillwatchError: one that competed cannot, or the store does not answer.
    """
    # Comparing is rare and torch takes seconds to import.
    from stillwatch.devices import choose_device
    from stillwatch.inference.torch_scorer import load_scorer

    # A device that is not there says nothing about the champion.
    choose_device(settings.training.device)
    test = read_test_set(category, settings.evaluation)
    with _laid_to(champion):
        learnt = _learnt_from(tracking, champion.run_id, category)
    learnt = learnt.union(*(_learnt_from(tracking, one.run_id, category) for one in competing))
    kept, dropped = unseen(_md5s(category, test), learnt)

    def inspected(bundle: Bundle) -> tuple[Candidate, Inspection]:
        with evaluation_device(settings) as device:
            inspector = Inspector(
                bundle,
                load_scorer(bundle, device),
                max_megapixels=settings.images.max_megapixels,
            )
            shown = _as_trained(inspector, test, category)
            found = inspect_test(inspector, shown, settings.evaluation.size)
        candidate = measured(bundle.info.detector.name, found, test.masks, kept)
        return candidate, _inspection(bundle, shown, found, kept)

    with _laid_to(champion):
        of_champion = inspected(registered_bundle(tracking, champion))
    with _laid_to(challenger, CHALLENGER, otherwise="delete the version"):
        of_challenger = inspected(registered_bundle(tracking, challenger))
    candidates: list[Candidate] = []
    for one in competing:
        if one.run_id == winner.run_id:
            candidates.append(of_challenger[0])
            continue
        with tracking.artifact(one.run_id, BUNDLE) as folder:
            # The maps of all the others would be in memory to no purpose.
            candidates.append(inspected(read_bundle(folder))[0])
    comparison = compare(
        of_champion[0],
        candidates,
        select_by=settings.retrain.select_by,
        settings=settings.gate,
        dropped=dropped,
        winner=winner.detector,
    )
    return Compared(comparison, of_champion[1], of_challenger[1])


def _inspection(
    bundle: Bundle, test: TestImages, found: InspectedTest, kept: NDArray[np.bool_]
) -> Inspection:
    items = gallery_items(bundle.info, test, found)
    return Inspection(
        items=[item for item, keep in zip(items, kept, strict=True) if keep],
        reject=bundle.info.calibration.reject.value,
    )


def _md5s(category: ExaminedCategory, test: TestImages) -> list[str]:
    """Of the test images; what was made is no file and has that of the normal it was made from."""
    by_path = {row.path: row.md5 for row in category.manifest.rows}
    return [by_path[test.made_from.get(path, path)] for path in test.paths]


def _learnt_from(
    tracking: Tracking, run_id: str | None, category: ExaminedCategory
) -> frozenset[str]:
    recorded = read_learnt_from(tracking, run_id) if run_id else None
    return frozenset(category.version.assignment) if recorded is None else recorded


@contextmanager
def _laid_to(
    version: ModelVersion, alias: str = CHAMPION, otherwise: str = "delete the alias champion"
) -> Iterator[None]:
    try:
        yield
    except StillwatchError as error:
        if is_of_the_artefact(error):
            raise PromotionError(
                f"the {alias}, version {version.version}, cannot be inspected with: {error}"
            ) from error
        raise TrackingError(
            f"the {alias}, version {version.version}, cannot be compared with now: {error} If "
            f"its files are gone for good, restore them from a backup, or {otherwise} in MLflow, "
            "and retrain."
        ) from error


def _as_trained(inspector: Inspector, test: TestImages, category: ExaminedCategory) -> TestImages:
    """The test images as the bundle's training images were: their size, their white level."""
    info = inspector.bundle.info
    if (info.image_size, info.white_level) == (test.images.shape[1], category.manifest.white_level):
        return test
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        files = image_files(category.folder, test, Path(made))
        return replace(test, images=np.stack([inspector.read(file) for file in files]))
