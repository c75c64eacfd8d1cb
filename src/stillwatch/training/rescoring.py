"""Score the normals of a trained detector: after the training, and for another region."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stillwatch.bundle import Bundle, NormalScores, derive_bundle
from stillwatch.calibration import Calibration, calibrate
from stillwatch.images.region import Region
from stillwatch.images.store import ImageStore
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.torch_scorer import load_scorer


def rescored(
    bundle: Bundle,
    folder: Path,
    *,
    region: Path | None,
    store: Path,
    parts: Mapping[str, Sequence[str]],
    device: str,
) -> Bundle:
    """Write the same detector with another region of interest; nothing is trained.

    The scores of the normals and the thresholds are those within the region.

    Args:
        bundle: with weights.
        folder: where the new bundle goes.
        region: PNG as ``Region.save`` writes it; None: defects count everywhere.
        store: folder of the decoded images.
        parts: train, validation and calibration: paths in the store.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
    """
    info, images = bundle.info, ImageStore.open(store)
    mapper = ImageMapper(
        load_scorer(bundle, device),
        info.geometry,
        info.combination,
        region=None if region is None else Region.load(region),
    )
    calibration, normal_scores = scored(
        mapper,
        images,
        parts,
        alpha_reject=info.calibration.reject.alpha,
        alpha_review=info.calibration.review.alpha,
    )
    changed = {"calibration": calibration, "normal_scores": normal_scores}
    return derive_bundle(bundle, folder, info.model_copy(update=changed), region)


def scored(
    mapper: ImageMapper,
    images: ImageStore,
    parts: Mapping[str, Sequence[str]],
    *,
    alpha_reject: float,
    alpha_review: float,
) -> tuple[Calibration, NormalScores]:
    """Thresholds from the calibration normals, and the scores of the other normals.

    Args:
        mapper: of the trained detector.
        images: the decoded images.
        parts: train, validation and calibration: paths in the store.
        alpha_reject: false-alarm rate of the verdict reject, in (0, 1).
        alpha_review: rate at which a normal is not passed, in (0, 1).

    Raises:
        CalibrationError: too few calibration normals for an alpha.
    """
    # First, since it raises where there are too few images.
    calibration = calibrate(
        mapper.scores(images.part(parts["calibration"])),
        alpha_reject=alpha_reject,
        alpha_review=alpha_review,
    )
    train, validation = (
        tuple(mapper.scores(images.part(parts[part])).tolist()) for part in ("train", "validation")
    )
    return calibration, NormalScores(train=train, validation=validation)
