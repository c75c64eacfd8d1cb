"""Draw the pictures of an evaluation: gallery, histogram and curves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch import pictures
from stillwatch.bundle import BundleInfo
from stillwatch.calibration import Threshold
from stillwatch.evaluation.evaluation import Evaluation, InspectedTest, TestImages

_IN_GALLERY = 16
"""Images in the gallery at most."""


def write_pictures(
    folder: Path,
    info: BundleInfo,
    items: Sequence[pictures.GalleryItem],
    evaluation: Evaluation,
) -> None:
    """Write the gallery, the score histogram and the available curves as PNG files.

    Raises:
        StorageError: the folder cannot be written to.
    """
    subject = f"{info.category} · {info.detector.name}"
    rows = evaluation.rows
    reject, review = info.calibration.reject, info.calibration.review
    figures = {
        "gallery": pictures.gallery(
            items,
            pictures.choose_items(items, _IN_GALLERY, reject.value),
            reject=reject,
            title=f"{subject} · test images",
            synthetic=evaluation.synthetic,
        ),
        "score_histogram": pictures.score_histogram(
            [row["score"] for row in rows if not row["label"]],
            [row["score"] for row in rows if row["label"]],
            info.calibration.scores,
            reject=reject,
            review=review,
            title=f"{subject} · image scores",
            synthetic=evaluation.synthetic,
        ),
    }
    if "roc" in evaluation.curves:
        figures["roc_curve"] = pictures.roc_curve(
            *evaluation.curves["roc"],
            evaluation.metrics["image_auroc"],
            evaluation.intervals.get("image_auroc"),
            title=f"{subject} · ROC",
            synthetic=evaluation.synthetic,
        )
    if "pro" in evaluation.curves:
        figures["pro_curve"] = pictures.pro_curve(
            *evaluation.curves["pro"],
            evaluation.metrics["aupro"],
            evaluation.intervals.get("aupro"),
            title=f"{subject} · per-region overlap",
            synthetic=evaluation.synthetic,
        )
    if info.training.losses:
        figures["loss_curve"] = pictures.loss_curve(
            info.training.losses, info.training.kept_epochs, title=f"{subject} · loss"
        )
    for name, figure in figures.items():
        pictures.save_figure(figure, folder / f"{name}.png")


def gallery_items(
    info: BundleInfo, test: TestImages, inspected: InspectedTest
) -> list[pictures.GalleryItem]:
    """The inspected test images for a gallery."""
    calibration = info.calibration
    return [
        pictures.GalleryItem(
            name=row["path"],
            defect_type=row["defect_type"],
            pixels=test.images[number],
            truth=None if test.masks is None else test.masks[number],
            anomaly_map=inspected.maps[number],
            mask=_mask(
                inspected.maps[number] if closeup is None else closeup.anomaly_map,
                calibration.reject if row["verdict"] == "reject" else calibration.review,
                row["score"],
            ),
            score=row["score"],
            p_value=row["p_value"],
            verdict=row["verdict"],
            counted=None if test.counted is None else test.counted[number],
            closeup=closeup,
        )
        for number, (row, closeup) in enumerate(
            zip(inspected.rows, inspected.closeups, strict=True)
        )
    ]


def _mask(
    anomaly_map: NDArray[np.float32], threshold: Threshold, score: float
) -> NDArray[np.bool_]:
    """The map above a threshold; at least one pixel if the score is above, as resizing may lose it.

    Args:
        anomaly_map: float32 (h, w).
        threshold: of the verdict.
        score: of the image.
    """
    mask = anomaly_map > np.float32(threshold.value)
    if score > threshold.value and not mask.any():
        mask.flat[anomaly_map.argmax()] = True
    return mask
