"""The response of the service to an image."""

import base64

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stillwatch.calibration import Verdict
from stillwatch.flows.serving.served_model import ServedModel, Upload
from stillwatch.inference.files import overlay_png
from stillwatch.inference.inspector import InspectedImage


class Limits(BaseModel):
    """One number for each verdict that is not ``pass``."""

    reject: float
    review: float


class Mask(BaseModel):
    """The defect's pixels, in COCO's uncompressed run-length encoding."""

    size: tuple[int, int] = Field(description="height and width of the image that was sent")
    counts: list[int] = Field(description="run lengths by columns, unset pixels first")


class Answer(BaseModel):
    """The verdict on one image."""

    model_config = ConfigDict(protected_namespaces=())

    category: str
    model_version: int = Field(description="of the registry")
    md5: str = Field(description="of the image file, as in the score log")
    verdict: Verdict
    score: float = Field(description="raw, the maximum of the anomaly map")
    p_value: float = Field(description="conformal, in (0, 1]")
    thresholds: Limits = Field(description="scores above which the verdict is given")
    alpha: Limits = Field(description="false-alarm rates that the thresholds were calibrated for")
    note: str | None = Field(
        None, description="why an image that would pass needs a review, in one sentence"
    )
    mask: Mask | None = Field(None, description="only where requested")
    overlay: str | None = Field(None, description="PNG in base64, only where requested")


def answer(model: ServedModel, upload: Upload, image: InspectedImage, *, mask: bool) -> Answer:
    """The response to an upload; with the defect's pixels if ``mask``."""
    calibration = model.bundle.info.calibration
    reject, review = calibration.reject, calibration.review
    return Answer(
        category=model.category,
        model_version=model.version,
        md5=upload.appearance.md5,
        verdict=image.verdict,
        score=image.score,
        p_value=image.p_value,
        thresholds=Limits(reject=reject.value, review=review.value),
        alpha=Limits(reject=reject.alpha, review=review.alpha),
        note=image.note,
        mask=_mask(upload, image) if mask else None,
        overlay=None if upload.pixels is None else _overlay(model, upload.pixels, image),
    )


def _mask(upload: Upload, image: InspectedImage) -> Mask:
    whole = image.mask_at(upload.height, upload.width)
    return Mask(size=(upload.height, upload.width), counts=run_lengths(whole))


def _overlay(model: ServedModel, pixels: NDArray[np.uint8], image: InspectedImage) -> str:
    picture = overlay_png(pixels, image, model.bundle)
    return base64.b64encode(picture).decode("ascii")


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of equal pixels, column by column, the first of them of unset pixels.

    COCO's ``counts`` (Lin et al., ECCV 2014; pycocotools ``frPyObjects`` reads it together with
    ``size``, height and width).

    Args:
        mask: bool (H, W).

    Returns:
        Pixel counts that add up to H · W; the first is 0 where the first pixel is set.
    """
    columns = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(columns, prepend=False))
    lengths: list[int] = np.diff(starts, prepend=0, append=columns.size).tolist()
    return lengths
