"""Score the normals of a trained detector anew, for another region of interest."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from stillwatch.bundle import Bundle, NormalScores, derive_bundle
from stillwatch.calibration import calibrate
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
        region=None if region is None else Region.load(region, max_megapixels=math.inf),
    )
    scores = {part: mapper.scores(images.part(paths)).tolist() for part, paths in parts.items()}
    calibration = calibrate(
        scores["calibration"],
        alpha_reject=info.calibration.reject.alpha,
        alpha_review=info.calibration.review.alpha,
    )
    normal_scores = NormalScores(
        train=tuple(scores["train"]), validation=tuple(scores["validation"])
    )
    changed = {"calibration": calibration, "normal_scores": normal_scores}
    return derive_bundle(bundle, folder, info.model_copy(update=changed), region)
