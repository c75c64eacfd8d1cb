"""Inspecting image files with a bundle from a folder or from the registry."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stillwatch.bundle import Bundle, read_bundle
from stillwatch.errors import StillwatchError
from stillwatch.files import atomic_file, ensure_writable, write_json
from stillwatch.inspection import (
    InspectedFile,
    Inspector,
    resize_map,
    resize_mask_keeping_rejection,
)
from stillwatch.settings import Settings

REGISTRY_SCHEME = "models:/"


@dataclass(frozen=True)
class InspectionRow:
    """One file's line in ``inspection.csv`` and ``inspection.json``."""

    path: str
    verdict: str | None
    score: float | None
    p_value: float | None
    threshold: float
    alpha: float
    error: str | None
    """Why the file could not be inspected; then it has no verdict."""
    overlay: str | None
    """The picture of the map and mask, relative to the output folder."""


def open_bundle(source: str, settings: Settings) -> Bundle:
    """Open a bundle folder, or fetch the bundle of a registered model.

    Args:
        source: a folder, or ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Raises:
        BundleError: the folder is not a sound bundle.
        TrackingError: the registry does not answer or holds no such model.
    """
    if not source.startswith(REGISTRY_SCHEME):
        return read_bundle(Path(source))
    from tasks.registry import fetch_bundle
    from tasks.tracking import open_tracking

    return fetch_bundle(open_tracking(settings), source)


def inspect_files(
    bundle: Bundle, paths: Sequence[Path], *, device: str, out: Path | None
) -> Iterator[InspectionRow]:
    """Inspect files one by one; a file that cannot be read yields a row that says why.

    Args:
        out: folder that overlays are written to, or None for no pictures.

    Raises:
        StorageError: ``out`` cannot be written to.
    """
    from stillwatch.scorers import open_scorer

    if out is not None:
        ensure_writable(out)
    inspector = Inspector(bundle, open_scorer(bundle, device))
    reject = bundle.info.calibration.reject
    for number, path in enumerate(paths):
        try:
            inspected = inspector.inspect_file(path)
        except StillwatchError as error:
            yield InspectionRow(
                str(path), None, None, None, reject.value, reject.alpha, str(error), None
            )
            continue
        overlay = None
        if out is not None:
            overlay = f"{number:04d}_{path.stem}_{inspected.image.verdict}.png"
            _write_overlay(inspected, bundle, out / overlay)
        image = inspected.image
        yield InspectionRow(
            str(path),
            image.verdict,
            image.score,
            image.p_value,
            reject.value,
            reject.alpha,
            None,
            overlay,
        )


def write_rows(rows: Sequence[InspectionRow], out: Path) -> None:
    """Write ``inspection.csv`` and ``inspection.json`` into ``out``.

    Raises:
        StorageError: ``out`` cannot be written to.
    """
    records = [asdict(row) for row in rows]
    write_json(out / "inspection.json", records)
    with (
        atomic_file(out / "inspection.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(InspectionRow.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(records)


def _write_overlay(inspected: InspectedFile, bundle: Bundle, path: Path) -> None:
    from stillwatch.pictures import overlay

    height, width = inspected.height, inspected.width
    calibration = bundle.info.calibration
    picture = overlay(
        inspected.pixels,
        resize_map(inspected.image.anomaly_map, height, width),
        resize_mask_keeping_rejection(inspected.image.mask, height, width),
        vmin=float(np.min(calibration.scores)) / 2,
        vmax=2 * calibration.reject.value,
    )
    with atomic_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
