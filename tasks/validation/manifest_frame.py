"""The manifest as the data frame that Great Expectations judges."""

import pandas as pd

from stillwatch.images.manifest import Manifest
from stillwatch.tasks.validation.statistics import CategoryStatistics
from stillwatch.text import printable


def manifest_frame(manifest: Manifest, statistics: CategoryStatistics) -> pd.DataFrame:
    """One row per image: the facts and statistics that the suite has an expectation on.

    Texts (object columns) are escaped as ``printable`` does, ``path`` included: pandas keeps
    strings in Arrow, which refuses names that are not UTF-8. Numbers are float64, missing ones NaN.
    """
    rows = manifest.rows
    images = [statistics.images[row.path] for row in rows]
    versioned = any(row.expected_md5 for row in rows)
    texts: dict[str, list[str | None]] = {
        "path": [row.path for row in rows],
        "split": [row.split for row in rows],
        "part": [row.part for row in rows],
        "defect_type": [row.defect_type for row in rows],
        "md5": [row.md5 or None for row in rows],
        "recorded_md5": [(row.expected_md5 or "") if versioned else None for row in rows],
        "decode_error": [row.decode_error for row in rows],
        "unsafe_name": [image.unsafe_name for image in images],
        "size": [image.size for image in images],
        "mode": [row.mode for row in rows],
        "copies_in_train": ["; ".join(image.copies_in_train) or None for image in images],
        "copies_in_test": ["; ".join(image.copies_in_test) or None for image in images],
        "earlier_copy": [image.earlier_copy for image in images],
        "near_in_train": [
            "; ".join(n.path for n in image.near_in_train) or None for image in images
        ],
        "mask": [row.mask for row in rows],
        "mask_error": [row.mask_error for row in rows],
        "mask_size": [image.mask_size for image in images],
    }
    numbers: dict[str, list[float | None]] = {
        "shortest_side": [image.shortest_side for image in images],
        "sharpness_z": [image.sharpness_z for image in images],
        "exposure_z": [image.exposure_z for image in images],
        "clipped": [image.clipped for image in images],
        "mask_area": [row.mask_area for row in rows],
    }
    columns = {
        name: pd.Series([v if v is None else printable(v) for v in values], dtype=object)
        for name, values in texts.items()
    }
    columns |= {name: pd.Series(values, dtype="float64") for name, values in numbers.items()}
    return pd.DataFrame(columns)
