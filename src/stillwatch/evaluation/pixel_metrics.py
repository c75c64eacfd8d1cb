"""Pixel-level figures from one sort of all pixels: AUPRO, AUROC, AP and their curves.

AUPRO is MVTec's own: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, in the
convention of its evaluation code. Every distinct score is a threshold; the per-region overlap (PRO)
is the mean, over all 8-connected regions of all test images, of the region's share above the
threshold; the false-positive rate counts all defect-free pixels of all test images, good ones
included; the area by trapezoids up to 30 % FPR, interpolated at the limit, is divided by 0.3.

The images may have different shapes. Pixels outside a region of interest are no pixels of the test
set: they are neither defective nor defect-free, and a defect is what of it is inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from stillwatch.evaluation.counts import Floats, auroc, average_precision, from_zero
from stillwatch.evaluation.metrics import Curve

FPR_LIMIT = 0.3

_GRID_STEPS = 1000
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


@dataclass(frozen=True)
class SortedPixels:
    """All pixels of a test set in the order of descending anomaly score.

    The *cell* of a pixel is i < N for a defect-free pixel of image i, N + r for region r.
    """

    cells: NDArray[np.uint32]
    """(P,) cell of the pixel at each rank."""
    last: NDArray[np.intp]
    """(D,) rank of the last pixel of each distinct score."""
    images: int
    """Number N of images."""
    region_images: NDArray[np.intp]
    """(R,) the image that each region is in."""
    region_areas: NDArray[np.int64]
    """(R,) pixels of each region."""


@dataclass(frozen=True)
class PixelCounts:
    """Cumulative counts of a test set at every distinct score at which a curve bends.

    In a run of scores that only defect-free pixels have, the curves are level: its inner scores are
    left out, and no figure changes by it.
    """

    ranks: NDArray[np.intp]
    """(T,) rank of the last pixel at or above each threshold."""
    true_positives: Floats
    """(T,) defective pixels at or above each threshold."""
    false_positives: Floats
    """(T,) defect-free pixels."""
    overlap: Floats
    """(T,) mean share of a region, the PRO."""


@dataclass(frozen=True)
class GridCounts:
    """Cumulative counts per image on one threshold grid shared by all images."""

    true_positives: Floats
    """(N, G) defective pixels of each image at or above each threshold."""
    false_positives: Floats
    """(N, G) defect-free pixels."""
    overlap: Floats
    """(N, G) sum over the image's regions of the share at or above each threshold."""
    regions: Floats
    """(N,) regions of each image."""


def evaluation_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """The shape (height, width) at which the pixel figures of an image are computed.

    The longer side becomes ``size``, also of a smaller image; the other side keeps the aspect
    ratio, rounded, and is at least 1.
    """
    longer = max(height, width)
    rows, columns = ((2 * side * size + longer) // (2 * longer) for side in (height, width))
    return max(rows, 1), max(columns, 1)


def any_defect(
    masks: Sequence[NDArray[np.bool_]], counted: Sequence[NDArray[np.bool_]] | None = None
) -> bool:
    """Whether any pixel that counts is defective; arguments as ``sort_pixels``."""
    if counted is None:
        return any(mask.any() for mask in masks)
    return any((mask & inside).any() for mask, inside in zip(masks, counted, strict=True))


def sort_pixels(
    maps: Sequence[NDArray[np.float32]],
    masks: Sequence[NDArray[np.bool_]],
    counted: Sequence[NDArray[np.bool_]] | None = None,
) -> SortedPixels:
    """Sort the pixels of a test set by score, each with its image or region.

    Args:
        maps: N finite anomaly maps (H, W) of any shapes.
        masks: N masks of the same shapes, true where the image is defective; all false for normals.
        counted: N masks of the same shapes, true where pixels count, at least one in all; None: all
            pixels count.
    """
    if counted is None:
        counted = [np.ones(mask.shape, dtype=np.bool_) for mask in masks]
    keys: list[NDArray[np.uint64]] = []
    images: list[int] = []
    areas: list[NDArray[np.int64]] = []
    for image, (anomaly_map, mask, inside) in enumerate(zip(maps, masks, counted, strict=True)):
        cells = np.full(mask.shape, image, dtype=np.uint32)
        defective = mask & inside
        if defective.any():
            labels, count = label(defective, structure=_EIGHT_NEIGHBOURS)
            cells[defective] = labels[defective] - 1 + len(maps) + len(images)
            areas.append(np.bincount(labels[defective] - 1))
            images.extend([image] * count)
        keys.append(_keys(anomaly_map, cells)[inside])
    ordered, last = _sort_by_score(np.concatenate(keys))
    return SortedPixels(
        cells=ordered,
        last=last,
        images=len(maps),
        region_images=np.array(images, dtype=np.intp),
        region_areas=np.concatenate([np.empty(0, np.int64), *areas]),
    )


def count_pixels(pixels: SortedPixels) -> PixelCounts:
    """Cumulative counts at every distinct score at which a curve bends. There must be a region."""
    defective = np.flatnonzero(pixels.cells >= pixels.images)
    scores = np.searchsorted(pixels.last, defective)
    bends = np.unique(np.concatenate([scores, np.maximum(scores - 1, 0), [len(pixels.last) - 1]]))
    ranks = pixels.last[bends]
    found = np.searchsorted(defective, ranks, side="right")
    shares = 1 / (pixels.region_areas * len(pixels.region_areas))
    overlap = np.cumsum(shares[pixels.cells[defective] - pixels.images])
    return PixelCounts(
        ranks=ranks,
        true_positives=found.astype(np.float64),
        false_positives=(ranks + 1 - found).astype(np.float64),
        overlap=from_zero(overlap)[found],
    )


def exact_pixel_metrics(counts: PixelCounts) -> dict[str, float]:
    """``pixel_auroc``, ``pixel_ap`` and ``aupro`` over every distinct score.

    A figure that needs defect-free pixels is absent when there are none.
    """
    metrics = {"pixel_ap": float(average_precision(counts.true_positives, counts.false_positives))}
    if counts.false_positives[-1] > 0:
        metrics["pixel_auroc"] = float(auroc(counts.true_positives, counts.false_positives))
        metrics["aupro"] = float(aupro(counts.overlap, counts.false_positives))
    return metrics


def aupro(overlap: Floats, false_positives: Floats, limit: float = FPR_LIMIT) -> Floats:
    """Area under the PRO curve up to a false-positive rate, divided by that rate.

    Args:
        overlap: (..., T) mean region overlap in [0, 1] at descending thresholds.
        false_positives: (..., T) cumulative counts of defect-free pixels; the last is the total.
        limit: highest false-positive rate, in (0, 1].

    Returns:
        (...), in [0, 1].
    """
    rate = from_zero(false_positives / false_positives[..., -1:])
    height = from_zero(overlap)
    left, right = rate[..., :-1], np.minimum(rate[..., 1:], limit)
    width = np.maximum(right - left, 0.0)
    step = np.diff(rate)
    within = np.divide(width, step, out=np.zeros_like(width), where=step > 0)
    mean_height = height[..., :-1] + within * np.diff(height) / 2
    return np.asarray(np.sum(width * mean_height, axis=-1) / limit)


def threshold_grid(counts: PixelCounts) -> NDArray[np.intp]:
    """(G,) indices into the thresholds of ``counts``, dense enough to stand for all of them.

    Between neighbours less than 1/2000 of the defective pixels, 1/1000 of the mean overlap and
    1/1000 of the defect-free pixels are passed over, so that trapezoids are off by less than 1e-3.
    A score that holds more pixels than that is a step of its own.
    """
    final = len(counts.overlap) - 1
    chosen = [np.array([final])]
    for values, steps in (
        (counts.true_positives, 2 * _GRID_STEPS),
        (counts.overlap, _GRID_STEPS),
        (counts.false_positives, _GRID_STEPS),
    ):
        targets = np.linspace(0, values[-1], steps + 1)[1:]
        reached = np.minimum(np.searchsorted(values, targets), final)
        leaps = reached[1:][np.diff(reached) == 0]
        chosen += [reached, np.maximum(leaps - 1, 0)]
    return np.unique(np.concatenate(chosen))


def count_on_grid(pixels: SortedPixels, ranks: NDArray[np.intp]) -> GridCounts:
    """Counts per image at the thresholds after (G,) ``ranks``, of which the last ends all."""
    cells = pixels.images + len(pixels.region_areas)
    slices = np.split(pixels.cells, ranks[:-1] + 1)
    per_cell = np.cumsum([np.bincount(part, minlength=cells) for part in slices], axis=0).T
    regions = per_cell[pixels.images :]
    shape = (pixels.images, len(ranks))
    true_positives, overlap = np.zeros(shape), np.zeros(shape)
    np.add.at(true_positives, pixels.region_images, regions)
    np.add.at(overlap, pixels.region_images, regions / pixels.region_areas[:, None])
    return GridCounts(
        true_positives=true_positives,
        false_positives=per_cell[: pixels.images].astype(np.float64),
        overlap=overlap,
        regions=np.bincount(pixels.region_images, minlength=pixels.images).astype(np.float64),
    )


def grid_counts(
    maps: Sequence[NDArray[np.float32]],
    masks: Sequence[NDArray[np.bool_]],
    counted: Sequence[NDArray[np.bool_]] | None = None,
) -> GridCounts:
    """Counts per image on the detector's own grid; arguments as ``sort_pixels``, with a region."""
    pixels = sort_pixels(maps, masks, counted)
    counts = count_pixels(pixels)
    return count_on_grid(pixels, counts.ranks[threshold_grid(counts)])


def pixel_curves(counts: PixelCounts, grid: NDArray[np.intp]) -> dict[str, Curve]:
    """``pro`` and ``pixel_roc`` over the false-positive rate at the grid's thresholds."""
    if counts.false_positives[-1] == 0:
        return {}
    rate = from_zero(counts.false_positives[grid] / counts.false_positives[-1])
    recall = counts.true_positives[grid] / counts.true_positives[-1]
    return {
        "pro": Curve(rate, from_zero(counts.overlap[grid])),
        "pixel_roc": Curve(rate, from_zero(recall)),
    }


def _keys(anomaly_map: NDArray[np.float32], cells: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Score and cell of each pixel, packed into one integer that falls with the score.

    The bits of a float32, with the sign bit flipped (all bits of a negative), compare as the floats
    do.
    """
    bits = (anomaly_map + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
    sign = np.uint32(1 << 31)
    descending = np.where(bits & sign, bits, ~(bits | sign))
    return np.asarray((descending.astype(np.uint64) << np.uint64(32)) | cells)


def _sort_by_score(keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
    """Cells by descending score, and the rank of the last of each distinct score.

    Sorting integers does it all. Sorts ``keys`` in place.
    """
    keys.sort()
    scores = (keys >> np.uint64(32)).astype(np.uint32)
    changes = np.flatnonzero(scores[1:] != scores[:-1])
    return keys.astype(np.uint32), np.append(changes, keys.size - 1)
