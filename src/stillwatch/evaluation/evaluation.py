"""Evaluate a detector on labelled test images.

All images go through inspection, so that the figures are those of the verdicts in production. A
figure that is undefined for a test set (no anomalies, no normals, no masks) is absent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from stillwatch.bundle import BundleInfo
from stillwatch.calibration import Verdict, clopper_pearson
from stillwatch.errors import LayoutError
from stillwatch.evaluation import bootstrap, metrics, pixel_metrics
from stillwatch.evaluation.bootstrap import Interval
from stillwatch.evaluation.closeups import CloseUp, close_up
from stillwatch.evaluation.counts import Floats
from stillwatch.evaluation.metrics import Curve
from stillwatch.inference.inspector import InspectedImage, Inspector
from stillwatch.inference.resizing import bilinear
from stillwatch.settings import EvaluationSettings

NORMAL = "good"

_BATCH = 16
"""Images that are timed together."""


@dataclass(frozen=True)
class TestImages:
    """Labelled test images of one category."""

    __test__: ClassVar[bool] = False  # pytest collects classes by this name

    paths: tuple[str, ...]
    images: Sequence[NDArray[np.uint8]]
    """(N,) of any shapes (h, w, 3)."""
    defect_types: tuple[str, ...]
    """(N,), ``good`` for normals."""
    masks: Sequence[NDArray[np.bool_]] | None
    """(N,), each of its image's ``evaluation_shape``, all false for normals; None: image metrics
    only."""
    synthetic: bool = False
    """True for generated anomalies."""
    made_from: dict[str, str] = field(default_factory=dict)
    """Path of a generated anomaly -> path of the normal that it equals outside its mask."""
    groups: dict[str, str] = field(default_factory=dict)
    """Path -> group; empty without a group pattern."""
    counted: Sequence[NDArray[np.bool_]] | None = None
    """(N,) of the masks' shapes, false where a pixel is in no pixel figure; None: all count."""
    outside_region: tuple[str, ...] = ()
    """Paths of the anomalies that are no test images, because their defect is wholly outside the
    region of interest."""


class ImageRow(TypedDict):
    """One line of the per-image table."""

    path: str
    defect_type: str
    label: int
    score: float
    p_value: float
    verdict: Verdict


class FalseAlarms(TypedDict, total=False):
    """Share of normals that are rejected; a rate without normals is absent."""

    in_sample: float
    """On the training normals; too low, because the detector was trained on them."""
    validation: float
    """On the validation normals; too low, because these images chose the epoch and set the
    statistics."""
    test: float
    test_ci: Interval
    """Clopper-Pearson, 95 %."""


@dataclass(frozen=True)
class GroupRejections:
    """Rejected test images of one group."""

    images: int
    rejected: int


@dataclass(frozen=True)
class InspectedTest:
    """Scores, verdicts and maps of one detector on the test images."""

    rows: list[ImageRow]
    maps: Sequence[NDArray[np.float32]]
    """(N,), each of its image's ``evaluation_shape``."""
    closeups: Sequence[CloseUp | None]
    """(N,), None for images that are small enough to be shown as a whole."""
    batch_ms: tuple[float, ...]
    """Milliseconds per image of each batch; the first (warm-up) counts only if it is alone."""

    @property
    def ms_per_image(self) -> float:
        """Median over batches."""
        return median(self.batch_ms)


@dataclass(frozen=True)
class Evaluation(InspectedTest):
    """All figures of one detector on one test set."""

    metrics: dict[str, float]
    """image_auroc, image_ap, f1 (at the reject threshold), f1_oracle (best over all thresholds,
    chosen with the labels), recall (anomalies rejected), false_alarm_rate (normals rejected),
    review_rate (normals with the verdict review), and with masks pixel_auroc, pixel_ap, aupro."""
    intervals: dict[str, Interval]
    """95 %: Clopper-Pearson for the three rates, bootstrap over images for the others. Images count
    as independent, so where several are of one group the intervals are too narrow."""
    recall_by_defect: dict[str, float]
    false_alarms: FalseAlarms
    normals_by_group: dict[str, GroupRejections]
    """Of the test normals; empty without groups."""
    anomalies_by_group: dict[str, GroupRejections]
    """Of the test anomalies."""
    curves: dict[str, Curve]
    """``roc`` (image) and, with masks, ``pro`` and ``pixel_roc``, over the false-positive rate."""
    synthetic: bool
    outside_region: tuple[str, ...]
    """As in the ``TestImages``; in no figure."""
    evaluation_size: int
    """Longer side, in pixels, at which the pixel figures were computed."""


@dataclass(frozen=True)
class _Figures:
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)


def evaluate(
    inspector: Inspector, test: TestImages, *, settings: EvaluationSettings, seed: int = 0
) -> Evaluation:
    """Inspect all test images and compute all figures.

    Args:
        inspector: the bundle under test.
        test: at least one image.
        settings: evaluation size and number of resamples.
        seed: of the bootstrap.

    Raises:
        LayoutError: there is no test image.
        DetectorError: the detector's maps are unusable.
    """
    if not test.paths:
        raise LayoutError(
            f"category {inspector.bundle.info.category}: no test image. Put good ones into "
            f"test/{NORMAL}."
        )
    inspected = inspect_test(inspector, test, settings.size)
    rows = inspected.rows
    weights = bootstrap.resample_weights(test.defect_types, settings.bootstrap_resamples, seed)
    parts = [_ranking(rows, weights), _rates(rows)]
    if test.masks is not None and pixel_metrics.any_defect(test.masks, test.counted):
        parts.append(_pixels(inspected.maps, test.masks, test.counted, weights))
    return Evaluation(
        metrics={name: value for part in parts for name, value in part.metrics.items()},
        intervals={name: value for part in parts for name, value in part.intervals.items()},
        recall_by_defect=_recall_by_defect(rows),
        false_alarms=_false_alarms(inspector.bundle.info, rows),
        normals_by_group=_by_group(rows, test.groups, label=0),
        anomalies_by_group=_by_group(rows, test.groups, label=1),
        curves={name: value for part in parts for name, value in part.curves.items()},
        synthetic=test.synthetic,
        outside_region=test.outside_region,
        evaluation_size=settings.size,
        **vars(inspected),
    )


def inspect_test(inspector: Inspector, test: TestImages, size: int) -> InspectedTest:
    """Inspect all test images; the only part of an evaluation that needs the detector.

    Args:
        inspector: the bundle under test.
        test: at least one image.
        size: longer side of the maps, where there are no masks that have their shapes.
    """
    shapes = [pixel_metrics.evaluation_shape(len(one), one.shape[1], size) for one in test.images]
    if test.masks is not None:
        shapes = [(mask.shape[0], mask.shape[1]) for mask in test.masks]
    rows: list[ImageRow] = []
    maps: list[NDArray[np.float32]] = []
    closeups: list[CloseUp | None] = []
    milliseconds: list[float] = []
    for start in range(0, len(test.images), _BATCH):
        batch = test.images[start : start + _BATCH]
        began = perf_counter()
        inspected = list(inspector.inspect(batch))
        milliseconds.append(1000 * (perf_counter() - began) / len(batch))
        # The whole maps of all test images would not fit into memory.
        for number, image in enumerate(inspected, start):
            rows.append(_row(test, number, image))
            maps.append(bilinear(image.anomaly_map, *shapes[number], image.extent).copy())
            closeups.append(close_up(image, *test.images[number].shape[:2]))
    return InspectedTest(rows, maps, closeups, tuple(milliseconds[1:] or milliseconds))


def _row(test: TestImages, number: int, image: InspectedImage) -> ImageRow:
    return ImageRow(
        path=test.paths[number],
        defect_type=test.defect_types[number],
        label=int(test.defect_types[number] != NORMAL),
        score=image.score,
        p_value=image.p_value,
        verdict=image.verdict,
    )


def _ranking(rows: Sequence[ImageRow], weights: Floats) -> _Figures:
    labels = np.array([row["label"] for row in rows], dtype=bool)
    if labels.all() or not labels.any():
        return _Figures()
    scores = np.array([row["score"] for row in rows])
    rejected = np.array([row["verdict"] == "reject" for row in rows])
    return _Figures(
        metrics=metrics.image_metrics(labels, scores, rejected),
        intervals=bootstrap.intervals(bootstrap.image_metrics(labels, scores, rejected, weights)),
        curves={"roc": metrics.roc_curve(labels, scores)},
    )


def _rates(rows: Sequence[ImageRow]) -> _Figures:
    figures = _Figures()
    anomalies = [row["verdict"] for row in rows if row["label"]]
    normals = [row["verdict"] for row in rows if not row["label"]]
    rates: list[tuple[str, list[Verdict], Verdict]] = [
        ("recall", anomalies, "reject"),
        ("false_alarm_rate", normals, "reject"),
        ("review_rate", normals, "review"),
    ]
    for name, verdicts, counted in rates:
        if verdicts:
            count = verdicts.count(counted)
            figures.metrics[name] = count / len(verdicts)
            figures.intervals[name] = clopper_pearson(count, len(verdicts))
    return figures


def _pixels(
    maps: Sequence[NDArray[np.float32]],
    masks: Sequence[NDArray[np.bool_]],
    counted: Sequence[NDArray[np.bool_]] | None,
    weights: Floats,
) -> _Figures:
    pixels = pixel_metrics.sort_pixels(maps, masks, counted)
    counts = pixel_metrics.count_pixels(pixels)
    grid = pixel_metrics.threshold_grid(counts)
    on_grid = pixel_metrics.count_on_grid(pixels, counts.ranks[grid])
    return _Figures(
        metrics=pixel_metrics.exact_pixel_metrics(counts),
        intervals=bootstrap.intervals(bootstrap.grid_metrics(on_grid, weights)),
        curves=pixel_metrics.pixel_curves(counts, grid),
    )


def _recall_by_defect(rows: Sequence[ImageRow]) -> dict[str, float]:
    anomalies = ((row["defect_type"], row["verdict"]) for row in rows if row["label"])
    return {name: seen.count("reject") / len(seen) for name, seen in _sorted_lists(anomalies)}


def _false_alarms(info: BundleInfo, rows: Sequence[ImageRow]) -> FalseAlarms:
    threshold = info.calibration.reject.value
    rates = FalseAlarms()
    if train := info.normal_scores.train:
        rates["in_sample"] = sum(score > threshold for score in train) / len(train)
    if validation := info.normal_scores.validation:
        rates["validation"] = sum(score > threshold for score in validation) / len(validation)
    test = [row["verdict"] for row in rows if not row["label"]]
    if test:
        rates["test"] = test.count("reject") / len(test)
        rates["test_ci"] = clopper_pearson(test.count("reject"), len(test))
    return rates


def _by_group(
    rows: Sequence[ImageRow], groups: dict[str, str], *, label: int
) -> dict[str, GroupRejections]:
    grouped = (
        (groups[row["path"]], row["verdict"])
        for row in rows
        if row["label"] == label and row["path"] in groups
    )
    return {
        group: GroupRejections(len(seen), seen.count("reject"))
        for group, seen in _sorted_lists(grouped)
    }


def _sorted_lists(pairs: Iterable[tuple[str, Verdict]]) -> list[tuple[str, list[Verdict]]]:
    """The verdicts of each name, in the order of the names."""
    found: dict[str, list[Verdict]] = {}
    for name, verdict in pairs:
        found.setdefault(name, []).append(verdict)
    return sorted(found.items())
