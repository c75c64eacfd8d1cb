"""What the service says about an image."""

import base64

from pydantic import BaseModel, ConfigDict, Field

from stillwatch.calibration import Verdict
from stillwatch.flows.serving.run_lengths import run_lengths
from stillwatch.flows.serving.served_model import ServedModel, Upload
from stillwatch.inference.files import overlay_png
from stillwatch.inference.inspector import InspectedImage, resize_mask_keeping_rejection


class Limits(BaseModel):
    """One number per verdict that is not ``pass``."""

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
    mask: Mask | None = Field(None, description="only where it was asked for")
    overlay: str | None = Field(None, description="PNG in base64, only where it was asked for")


def answer(
    model: ServedModel, upload: Upload, image: InspectedImage, *, mask: bool, overlay: bool
) -> Answer:
    """Put together what was found.

    Args:
        model: the one that judged.
        upload: what was sent.
        image: what was found on it.
        mask: whether the mask is wanted.
        overlay: whether a picture is wanted.
    """
    calibration = model.bundle.info.calibration
    reject, review = calibration.reject, calibration.review
    return Answer(
        category=model.category,
        model_version=model.version,
        md5=upload.looks.md5,
        verdict=image.verdict,
        score=image.score,
        p_value=image.p_value,
        thresholds=Limits(reject=reject.value, review=review.value),
        alpha=Limits(reject=reject.alpha, review=review.alpha),
        mask=_mask(upload, image) if mask else None,
        overlay=_overlay(model, upload, image) if overlay else None,
    )


def _mask(upload: Upload, image: InspectedImage) -> Mask:
    whole = resize_mask_keeping_rejection(image.mask, upload.height, upload.width)
    return Mask(size=(upload.height, upload.width), counts=run_lengths(whole))


def _overlay(model: ServedModel, upload: Upload, image: InspectedImage) -> str:
    picture = overlay_png(model.pixels(upload), image, model.bundle)
    return base64.b64encode(picture).decode("ascii")
