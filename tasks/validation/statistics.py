"""Statistics of a category's images: usual values, duplicates, outliers.

Pure functions; the limits are in the expectations.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.images.layout import refused_by_windows, unsafe_name
from stillwatch.images.manifest import ImageFacts, Manifest, hash_distance_matrix
from stillwatch.tasks.validation.scenes import Scenes, find_scenes

FEWEST_FOR_STATISTICS = 3
"""Fewer images give no usual value of the category."""

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation of a normal distribution to its standard deviation."""

SHARPNESS_FLOOR = 0.1
"""Smallest sigma of log sharpness: at z = 8 a factor of 2.2 in the variance of the Laplacian."""

EXPOSURE_FLOOR = 0.05
"""Smallest sigma of the logit of brightness: at z = 8 about 25 grey values from mid-grey."""


@dataclass(frozen=True)
class Neighbour:
    """Another image with a similar perceptual hash."""

    path: str
    distance: int
    """Hamming distance of the two hashes, 0..256 bits."""


@dataclass(frozen=True)
class ImageStatistics:
    """One image compared with its category; None: not judged, or impossible to compute."""

    unsafe_name: str | None
    refused_by_windows: str | None
    size: str | None
    shortest_side: int | None
    mask_size: str | None
    copies_in_train: tuple[str, ...]
    """Train images with the same bytes; of test images and corrected anomalies only."""
    copies_in_test: tuple[str, ...]
    """Test images with the same bytes; of corrected anomalies only."""
    earlier_copy: str | None
    """The first train image with the same bytes; of train images only."""
    near_in_train: tuple[Neighbour, ...]
    """Train images that are much closer than usual in this category, nearest first."""
    sharpness_z: float | None
    exposure_z: float | None
    clipped: float | None
    """Share of pixels at 0 or 255, of normals only."""
    light: float | None
    """Mean and twice the standard deviation of the grey values: the brightness of bright parts."""


@dataclass(frozen=True)
class CategoryStatistics:
    """The statistics of all images, and the usual values of the train normals."""

    usual_size: str | None
    usual_mode: str | None
    usual_clipped: float | None
    usual_neighbour: float | None
    """Median hash distance of the distinct images to their nearest neighbour, in bits."""
    images: dict[str, ImageStatistics]
    scenes: Scenes


def category_statistics(manifest: Manifest, *, near_duplicate_ratio: float) -> CategoryStatistics:
    """Compare each image of ``manifest`` with its category.

    Args:
        near_duplicate_ratio: two images are near duplicates when their hash distance is at most
            this share of the category's median nearest-neighbour distance.
    """
    rows = manifest.rows
    train = [row for row in rows if row.split == "train"]
    distinct_train = _distinct(train)
    sharpness = _z_scores(
        {row.path: row.sharpness for row in rows}, distinct_train, sharpness_scale, SHARPNESS_FLOOR
    )
    exposure = _z_scores(
        {row.path: row.mean for row in rows}, distinct_train, brightness_scale, EXPOSURE_FLOOR
    )
    usual_neighbour, near = near_duplicates(rows, ratio=near_duplicate_ratio)
    copies_of: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.decode_error is None:
            copies_of.setdefault((row.split, row.md5), []).append(row.path)
    images = {}
    for row in rows:
        copies = tuple(copies_of.get(("train", row.md5), ()))
        in_test = tuple(copies_of.get(("test", row.md5), ()))
        in_train = row.split == "train"
        judged = is_normal(row)
        images[row.path] = ImageStatistics(
            unsafe_name=unsafe_name(row.path),
            refused_by_windows=refused_by_windows(row.path),
            size=size_text(row.width, row.height),
            shortest_side=_shortest(row),
            mask_size=size_text(row.mask_width, row.mask_height),
            copies_in_train=() if in_train else copies,
            copies_in_test=in_test if row.split == "feedback" else (),
            earlier_copy=_earlier(copies, row.path) if in_train else None,
            near_in_train=near.get(row.path, ()),
            sharpness_z=sharpness.get(row.path) if judged else None,
            exposure_z=exposure.get(row.path) if judged else None,
            clipped=row.clipped if judged else None,
            light=None if row.mean is None or row.std is None else row.mean + 2 * row.std,
        )
    clipped = [row.clipped for row in train if row.clipped is not None]
    return CategoryStatistics(
        usual_size=_most_common([size_text(row.width, row.height) for row in distinct_train]),
        usual_mode=_most_common([row.mode for row in distinct_train]),
        usual_clipped=float(np.median(clipped)) if clipped else None,
        usual_neighbour=usual_neighbour,
        images=images,
        scenes=find_scenes(rows),
    )


def is_normal(row: ImageFacts) -> bool:
    """Whether the image shows a good part."""
    return row.defect_type == "good"


def near_duplicates(
    rows: Sequence[ImageFacts], *, ratio: float
) -> tuple[float | None, dict[str, tuple[Neighbour, ...]]]:
    """Find pairs that are much closer than the nearest neighbours usual in the category.

    All parts of a line look alike, so there is no fixed limit. A pair is a test and a train image,
    or two train images (listed for the later path); images with the same bytes are no pair.

    Returns:
        The median nearest-neighbour distance in bits, and path -> neighbours. The median is None if
        there are too few images, or if the hash cannot distinguish half of them.
    """
    hashed = [row for row in rows if row.hash is not None]
    firsts = {row.md5: index for index, row in reversed(list(enumerate(hashed)))}
    distinct = sorted(firsts.values())
    if len(distinct) < FEWEST_FOR_STATISTICS:
        return None, {}
    distances = hash_distance_matrix([row.hash for row in hashed if row.hash is not None])
    among_distinct = distances[np.ix_(distinct, distinct)].astype(np.float64)
    np.fill_diagonal(among_distinct, np.inf)
    usual = float(np.median(among_distinct.min(axis=1)))
    if usual == 0:
        return None, {}
    train = np.array([i for i in distinct if hashed[i].split == "train"], dtype=np.intp)
    near = {}
    for index, row in enumerate(hashed):
        others = train[train < index] if row.split == "train" else train
        if row.split == "train" and index not in train:
            continue
        close = others[distances[index, others] <= ratio * usual]
        neighbours = [
            Neighbour(hashed[other].path, int(distances[index, other]))
            for other in close
            if hashed[other].md5 != row.md5
        ]
        if neighbours:
            near[row.path] = tuple(sorted(neighbours, key=lambda n: (n.distance, n.path)))
    return usual, near


def sharpness_scale(sharpness: ArrayLike) -> NDArray[np.float64]:
    """Natural logarithm of variances of the Laplacian, which differ by factors."""
    return np.asarray(np.log(np.asarray(sharpness, dtype=np.float64) + 0.1))


def brightness_scale(brightness: ArrayLike) -> NDArray[np.float64]:
    """Logit of mean grey values, which stretches both ends: near black and near white."""
    share = (np.asarray(brightness, dtype=np.float64) + 0.5) / 256
    return np.asarray(np.log(share / (1 - share)))


def size_text(width: int | None, height: int | None) -> str | None:
    """A size as ``width×height``; None without one."""
    return None if width is None or height is None else f"{width}×{height}"


def robust_z(
    values: NDArray[np.float64], reference: NDArray[np.float64], floor: float
) -> NDArray[np.float64]:
    """Distance of ``values`` from the reference's median, in robust standard deviations.

    Median and median absolute deviation (Iglewicz & Hoaglin, *How to Detect and Handle Outliers*,
    1993), the latter at least ``floor``, because images of one camera can be nearly identical.
    """
    center = np.median(reference)
    sigma = MAD_TO_SIGMA * np.median(np.abs(reference - center))
    return np.asarray((values - center) / max(float(sigma), floor), dtype=np.float64)


def _z_scores(
    values: Mapping[str, float | None],
    reference: Iterable[ImageFacts],
    scale: Callable[[ArrayLike], NDArray[np.float64]],
    floor: float,
) -> dict[str, float]:
    """``robust_z`` of the scaled values by path; an image that cannot be decoded has no value."""
    measured = {path: value for path, value in values.items() if value is not None}
    usual = [measured[row.path] for row in reference if row.path in measured]
    if len(usual) < FEWEST_FOR_STATISTICS:
        return {}
    scores = robust_z(scale(list(measured.values())), scale(usual), floor)
    return dict(zip(measured, scores.tolist(), strict=True))


def _distinct(rows: Iterable[ImageFacts]) -> list[ImageFacts]:
    firsts: dict[str, ImageFacts] = {}
    for row in rows:
        firsts.setdefault(row.md5, row)
    return list(firsts.values())


def _earlier(copies: tuple[str, ...], path: str) -> str | None:
    return copies[0] if copies and copies[0] != path else None


def _shortest(row: ImageFacts) -> int | None:
    return None if row.width is None or row.height is None else min(row.width, row.height)


def _most_common(values: Iterable[str | None]) -> str | None:
    counts = Counter(value for value in values if value is not None)
    return min(counts, key=lambda value: (-counts[value], value)) if counts else None
