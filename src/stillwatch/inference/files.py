"""Inspect image files with a bundle: verdicts as rows, pictures as PNG files, scores in the log."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillwatch.bundle import Bundle, read_bundle
from stillwatch.errors import StillwatchError
from stillwatch.files import atomic_file, ensure_writable, write_json
from stillwatch.images.decode import resize_image
from stillwatch.inference.captions import (
    add_caption,
    outline_sample,
    scale_sample,
    text_height,
    verdict_line,
)
from stillwatch.inference.inspector import InspectedImage, Inspector
from stillwatch.inference.overlays import REJECT_OUTLINE, REVIEW_OUTLINE, map_limits, overlay
from stillwatch.inference.resizing import resize_mask_keeping_rejection
from stillwatch.inference.score_log import appearance, logged, open_score_log
from stillwatch.inference.scorers import open_scorer
from stillwatch.settings import Settings
from stillwatch.text import encodable

_LARGEST_PICTURE = 4096
"""Longer side of an overlay in pixels, at most."""
_SMALLEST_PICTURE = 320
"""Longer side of an overlay in pixels; a smaller image is drawn larger."""
_LONGEST_STEM = 60
"""Characters of an image's name in the name of its overlay."""


@dataclass(frozen=True, kw_only=True)
class InspectionRow:
    """One file's line in ``inspection.csv`` and ``inspection.json``."""

    path: str
    """Bytes that are not UTF-8 are escaped."""
    verdict: str | None = None
    score: float | None = None
    p_value: float | None = None
    threshold: float
    alpha: float
    error: str | None = None
    """Why the file could not be inspected; then it has no verdict."""
    note: str | None = None
    """Why the false-alarm rates do not hold for this image; such an image never passes."""
    overlay: str | None = None
    """The picture of the map and mask, relative to the output folder."""


@dataclass(frozen=True)
class OpenedModel:
    """A bundle, and which version of the registry it is."""

    bundle: Bundle
    version: int | None
    """None for a bundle folder, unless it was exported from the registry."""

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Open the folder of a bundle, exported or not; errors as ``read_bundle``."""
        bundle = read_bundle(folder)
        graph = bundle.info.graph
        return cls(bundle, None if graph is None else graph.model_version)


def inspect_files(
    model: OpenedModel, paths: Sequence[Path], *, settings: Settings, out: Path | None
) -> Iterator[InspectionRow]:
    """Inspect files one by one and log their scores.

    A file that cannot be read yields a row that says why.

    Args:
        model: the bundle, and its version for the log.
        paths: image files.
        settings: of the bundle's category; name the device, the largest image and the score log.
        out: folder that overlays are written to, or None for no pictures.
    """
    if out is not None:
        ensure_writable(out)
    bundle = model.bundle
    inspector = Inspector(
        bundle,
        open_scorer(bundle, settings.training.device),
        max_megapixels=settings.images.max_megapixels,
    )
    reject = bundle.info.calibration.reject
    row_of = partial(InspectionRow, threshold=reject.value, alpha=reject.alpha)
    with open_score_log(settings) as log:
        for number, path in enumerate(paths):
            try:
                file = inspector.inspect_file(path)
            except StillwatchError as error:
                reason = encodable(str(error))
                yield row_of(path=encodable(str(path)), error=reason)
                continue
            image = file.image
            seen = appearance(file.md5, file.pixels)
            row = logged(seen, image, model_version=model.version, file=path.name)
            log.append(bundle.info.category, [row])
            overlay = None
            if out is not None:
                overlay = f"{number:04d}_{_safe_stem(path)}_{image.verdict}.png"
                with atomic_file(out / overlay) as temporary:
                    temporary.write_bytes(overlay_png(file.pixels, image, bundle))
            del file  # its pixels may be hundreds of megabytes
            yield row_of(
                path=encodable(str(path)),
                verdict=image.verdict,
                score=image.score,
                p_value=image.p_value,
                note=image.note,
                overlay=overlay,
            )


def _safe_stem(path: Path) -> str:
    """The start of a file's stem as every system can store it; the overlay's number is unique."""
    return re.sub(r"[^\w.-]", "_", encodable(path.stem), flags=re.ASCII)[:_LONGEST_STEM]


def write_rows(rows: Sequence[InspectionRow], out: Path) -> None:
    """Write ``inspection.csv`` and ``inspection.json`` into ``out``."""
    records = [asdict(row) for row in rows]
    write_json(out / "inspection.json", records)
    with (
        atomic_file(out / "inspection.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(InspectionRow.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(records)


def overlay_png(pixels: NDArray[np.uint8], image: InspectedImage, bundle: Bundle) -> bytes:
    """An inspected image with its map, an outline, a caption and a legend, as a PNG file.

    What is above the threshold of the verdict is outlined: solid for reject, dotted for review.

    Args:
        pixels: uint8 (H, W, 3), the image at its own size; one of more than 4096 pixels a side is
            drawn smaller, one of less than 320 larger.
        image: what was found on it.
        bundle: of the detector; its reject threshold is in the middle of the colour scale, and
            the median of the image's own map is its darkest colour.
    """
    longer = max(pixels.shape)
    factor = min(_LARGEST_PICTURE / longer, max(1.0, _SMALLEST_PICTURE / longer))
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    calibration = bundle.info.calibration
    reject = calibration.reject.value
    rejected = image.verdict == "reject"
    outline = REJECT_OUTLINE if rejected else REVIEW_OUTLINE
    outlined = image.anomaly_map > np.float32(reject if rejected else calibration.review.value)
    vmin, vmax = map_limits([image.anomaly_map], reject)
    picture = overlay(
        resize_image(pixels, height, width),
        image.map_at(height, width),
        resize_mask_keeping_rejection(outlined, height, width, image.extent),
        outline,
        vmin=vmin,
        vmax=vmax,
    )
    letters = text_height(width)
    legend = [(scale_sample(letters), "map; mark: reject threshold")]
    if outlined.any():
        threshold = "reject" if rejected else "review"
        legend.append((outline_sample(letters, outline), f"above {threshold} threshold"))
    lines = [verdict_line(image.verdict, image.score, reject)]
    if image.note is not None:
        lines.append(image.note)
    file = BytesIO()
    Image.fromarray(add_caption(picture, lines, legend)).save(file, format="PNG")
    return file.getvalue()
