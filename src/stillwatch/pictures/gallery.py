"""Draw a gallery of test images with maps and verdicts, the detector's errors first."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from stillwatch.calibration import Threshold, Verdict
from stillwatch.evaluation.closeups import CloseUp
from stillwatch.images.decode import resize_image
from stillwatch.inference.captions import add_caption, verdict_line
from stillwatch.inference.overlays import (
    MISSED_OUTLINE,
    REJECT_OUTLINE,
    REVIEW_OUTLINE,
    TRUTH_OUTLINE,
    Outline,
    draw_outline,
    heat_colours,
    heat_share,
    map_limits,
    overlay,
)
from stillwatch.inference.resizing import resize_map
from stillwatch.pictures.style import LIGHT, Theme, heading, new_figure

_NORMAL = "good"
_ROWS_PER_BLOCK = 8
_CELL_INCHES = 1.4
_BLOCK_INCHES = 5.7 * _CELL_INCHES
_HEAD_INCHES = 1.36
_MARGIN_INCHES = 0.08
_THUMBNAIL = 240
_IN_STRIP = 176
"""Width in pixels: MLflow's page has room for four beside its assistant."""
_FRAME = Outline((255, 255, 255))
_HIGHEST_SHARE = 0.7
"""What of a missed defect's map is outlined: above this share of its range."""
_OWN_SCALE = "map on its own scale"


@dataclass(frozen=True)
class Thumbnails:
    """One inspected image as small pictures, uint8 (h, w, 3).

    All are of the same size, but for ``truth`` of a large image.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None
    """The image with the outline of its ground truth; None where there is none. Of a large image
    the whole of it, with a frame around the part that the other pictures show."""
    heat: NDArray[np.uint8]
    overlay: NDArray[np.uint8]
    """The image with the map laid over it and an outline: solid for reject, dotted for review. Of a
    missed defect, the outline is dashed, and map and outline are on a scale of their own."""


@dataclass(frozen=True)
class GalleryItem:
    """One inspected test image."""

    name: str
    """Shown under the defect type: the path in the category."""
    defect_type: str
    """``good`` for normals."""
    pixels: NDArray[np.uint8]
    """(H, W, 3)."""
    truth: NDArray[np.bool_] | None
    """Ground truth of any size; None where there is none."""
    anomaly_map: NDArray[np.float32]
    """(h, w), raw."""
    mask: NDArray[np.bool_]
    """What is outlined, of any size: the map above the threshold of the verdict, empty for pass;
    that of a close-up, if any."""
    score: float
    p_value: float
    verdict: Verdict
    counted: NDArray[np.bool_] | None = None
    """Region of interest of any size, shown bright; None: all pixels count."""
    closeup: CloseUp | None = None
    """The part of a large image that is shown."""

    @property
    def false_pass(self) -> bool:
        """Whether an anomaly has the verdict pass."""
        return self.defect_type != _NORMAL and self.verdict == "pass"

    @property
    def false_reject(self) -> bool:
        """Whether a normal has the verdict reject."""
        return self.defect_type == _NORMAL and self.verdict == "reject"

    @property
    def outcome(self) -> str:
        """The verdict, or what is wrong with it."""
        if self.false_pass:
            return "missed"
        return "false alarm" if self.false_reject else self.verdict


def gallery(
    items: Sequence[GalleryItem],
    shown: Sequence[GalleryItem],
    *,
    reject: Threshold,
    title: str,
    synthetic: bool = False,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw test images: image, ground truth, map, overlay, score and verdict.

    All maps share one colour scale, with the reject threshold in its middle, but for those of
    missed defects. The figure is 800 pixels wide, or 1600 with more than eight images.

    Args:
        items: all test images, at least one, for the colour scale and the counts.
        shown: those that are drawn, for example by :func:`choose_items`.
        reject: the threshold above which an image is rejected.
        title: above the figure.
        synthetic: the anomalies are made, not photographed; the picture says so.
        theme: colours of ground and words.
    """
    limits = map_limits([item.anomaly_map for item in items], reject.value)
    blocks = -(-len(shown) // _ROWS_PER_BLOCK)
    rows = min(len(shown), _ROWS_PER_BLOCK)
    width, height = blocks * _BLOCK_INCHES, rows * _CELL_INCHES + _HEAD_INCHES
    figure = new_figure(width, height, theme.ground)
    figure.set_layout_engine("none")
    _write_heading(figure, heading(title, synthetic, width), _summary(items, len(shown)), theme)
    _draw_legend(figure, shown, limits, reject, theme)
    for number, item in enumerate(shown):
        block, row = divmod(number, _ROWS_PER_BLOCK)
        left, bottom = block * _BLOCK_INCHES + _MARGIN_INCHES, (rows - 1 - row) * _CELL_INCHES
        place = (left / width, bottom / height, 5.6 * _CELL_INCHES / width, _CELL_INCHES / height)
        axes = figure.add_axes(place)
        axes.set(xlim=(0, 5.6), ylim=(0, 1))
        axes.set_axis_off()
        _draw_item(axes, item, limits, reject, theme)
        if row == 0:
            for column, name in enumerate(_column_names(shown)):
                axes.text(column, 1.03, name, fontsize=9, color=theme.muted)
    return figure


def choose_items(items: Sequence[GalleryItem], limit: int, reject: float) -> list[GalleryItem]:
    """Pick what to show: false passes, then false rejects, then the others.

    False rejects keep a quarter of the page. The others take turns by defect type, each type's
    image nearest to the threshold first.
    """
    passes = sorted((item for item in items if item.false_pass), key=lambda item: item.score)
    rejects = sorted((item for item in items if item.false_reject), key=lambda item: -item.score)
    chosen = passes[: limit - min(len(rejects), limit // 4)]
    chosen += rejects[: limit - len(chosen)]
    waiting: dict[str, list[GalleryItem]] = defaultdict(list)
    for item in sorted(items, key=lambda item: abs(item.score - reject)):
        if not (item.false_pass or item.false_reject):
            waiting[item.defect_type].append(item)
    turns = [
        (turn, defect_type, item)
        for defect_type, queue in waiting.items()
        for turn, item in enumerate(queue)
    ]
    turns.sort(key=lambda entry: entry[:2])
    return chosen + [item for _, _, item in turns[: limit - len(chosen)]]


def one_of_each(items: Sequence[GalleryItem]) -> list[GalleryItem]:
    """Pick four images: a defect with each verdict and a good part that passes.

    Each is the one with the highest score; where a kind is missing, another image takes its place.
    """
    kinds = [(True, "reject"), (True, "review"), (True, "pass"), (False, "pass")]
    ordered = sorted(items, key=lambda item: -item.score)
    of_kind = [
        [item for item in ordered if (item.defect_type != _NORMAL, item.verdict) == kind]
        for kind in kinds
    ]
    chosen = [found[0] for found in of_kind if found]
    others = [item for item in ordered if not any(item is one for one in chosen)]
    return [*chosen, *others[: len(kinds) - len(chosen)]]


def draw_strip(
    items: Sequence[GalleryItem], limits: tuple[float, float], reject: float
) -> NDArray[np.uint8]:
    """Draw the overlays of some images side by side, each with its verdict below.

    Args:
        items: at least one.
        limits: raw values of the darkest and brightest colour, from ``map_limits``.
        reject: the threshold above which an image is rejected.

    Returns:
        uint8 (h, w, 3), 176 pixels wide for each image.
    """
    tiles = []
    for item in items:
        defect = item.defect_type.encode("ascii", "replace").decode("ascii")
        lines = [defect, verdict_line(item.outcome, item.score, reject)]
        if item.false_pass:
            lines.append(_OWN_SCALE)
        drawn = draw_thumbnails(item, limits).overlay
        shown = resize_image(drawn, round(len(drawn) * _IN_STRIP / drawn.shape[1]), _IN_STRIP)
        tiles.append(add_caption(shown, lines, narrowest=_IN_STRIP))
    height = max(len(tile) for tile in tiles)
    return np.hstack(
        [np.pad(tile, ((0, height - len(tile)), (0, 0), (0, 0)), mode="edge") for tile in tiles]
    )


def draw_thumbnails(item: GalleryItem, limits: tuple[float, float]) -> Thumbnails:
    """Draw the pictures of one image, at most 240 pixels a side.

    Of an image with a close-up, all but ``truth`` show the close-up.

    Args:
        item: the image.
        limits: raw values of the darkest and brightest colour, from ``map_limits``.
    """
    part = item.pixels if item.closeup is None else item.pixels[item.closeup.place]
    small = _thumbnail(part)
    height, width = small.shape[:2]
    if item.closeup is None:
        anomaly_map = resize_map(item.anomaly_map, height, width)
    else:
        anomaly_map = item.closeup.map_at(height, width)
    mask, outline = item.mask, REJECT_OUTLINE if item.verdict == "reject" else REVIEW_OUTLINE
    if item.false_pass:
        limits = float(np.median(anomaly_map)), float(anomaly_map.max())
        mask = heat_share(anomaly_map, *limits) > _HIGHEST_SHARE
        outline = MISSED_OUTLINE
    low, high = limits
    ground = _dark_outside(small, item.counted) if item.closeup is None else small
    return Thumbnails(
        image=small,
        truth=_truth(item),
        heat=heat_colours(heat_share(anomaly_map, low, high)),
        overlay=overlay(ground, anomaly_map, mask, outline, vmin=low, vmax=high),
    )


def _truth(item: GalleryItem) -> NDArray[np.uint8] | None:
    """The whole image with its ground truth and the place of the close-up, as far as it has any."""
    drawn = _dark_outside(_thumbnail(item.pixels), item.counted)
    if item.closeup is not None:
        framed = np.zeros(drawn.shape[:2], np.bool_)
        rows, columns = (
            slice(part.start * small // large, math.ceil(part.stop * small / large))
            for part, small, large in zip(
                item.closeup.place, drawn.shape, item.pixels.shape, strict=False
            )
        )
        framed[rows, columns] = True
        drawn = draw_outline(drawn, framed, _FRAME)
    if item.truth is not None and item.truth.any():
        return draw_outline(drawn, item.truth, TRUTH_OUTLINE)
    return None if item.closeup is None else drawn


def _column_names(items: Sequence[GalleryItem]) -> tuple[str, str, str, str]:
    if any(item.closeup for item in items):
        return "close-up", "whole image, true defect", "anomaly map", "overlay"
    return "image", "true defect", "anomaly map", "overlay"


def _draw_item(
    axes: Axes,
    item: GalleryItem,
    limits: tuple[float, float],
    reject: Threshold,
    theme: Theme,
) -> None:
    """Draw one row in units of cells: four pictures, then words."""
    drawn = draw_thumbnails(item, limits)
    truth = np.full_like(drawn.image, theme.blank) if drawn.truth is None else drawn.truth
    for column, picture in enumerate((drawn.image, truth, drawn.heat, drawn.overlay)):
        across, up = _drawn_size(picture)
        axes.imshow(picture, extent=(column, column + across, 0.96 - up, 0.96), aspect="auto")
    axes.set(xlim=(0, 5.6), ylim=(0, 1))
    if drawn.truth is None:
        across, up = _drawn_size(truth)
        words = "no defect" if item.defect_type == _NORMAL else "no mask"
        axes.text(1 + across / 2, 0.96 - up / 2, words, ha="center", va="center", color=theme.muted)
    _write_verdict(axes, item, reject, theme)


def _dark_outside(
    pixels: NDArray[np.uint8], counted: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    if counted is None:
        return pixels
    height, width = pixels.shape[:2]
    inside = cv2.resize(counted.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.where(inside[..., None] > 0, pixels, pixels // 3)


def _drawn_size(picture: NDArray[np.uint8]) -> tuple[float, float]:
    """Width and height of a picture in units of cells."""
    height, width = picture.shape[:2]
    return 0.96 * width / max(height, width), 0.96 * height / max(height, width)


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = _THUMBNAIL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=how), dtype=np.uint8)


def _write_verdict(axes: Axes, item: GalleryItem, reject: Threshold, theme: Theme) -> None:
    colour = theme.alarm if item.false_pass or item.false_reject else theme.ink
    lines = [
        (item.defect_type, 11, "bold", theme.ink),
        (item.name, 9, "normal", theme.muted),
        (item.outcome, 11, "bold", colour),
        (_against(item.score, reject.value), 10, "normal", theme.ink),
        (f"score {item.score:.4g}, p = {item.p_value:.3f}", 9, "normal", theme.muted),
    ]
    if item.false_pass:
        lines.append((_OWN_SCALE, 9, "normal", theme.muted))
    for place, (text, size, weight, ink) in enumerate(lines):
        axes.text(
            4.06,
            0.86 - 0.15 * place,
            text,
            fontsize=size,
            fontweight=weight,
            color=ink,
            va="center",
        )


def _against(score: float, threshold: float) -> str:
    if threshold <= 0:
        return f"threshold {threshold:.4g}"
    return f"score ÷ threshold = {score / threshold:.2f}"


def _write_heading(figure: Figure, title: str, summary: str, theme: Theme) -> None:
    width, height = figure.get_size_inches()
    left = _MARGIN_INCHES / width
    figure.text(
        left, 1 - 0.1 / height, title, fontsize=12, fontweight="bold", color=theme.ink, va="top"
    )
    level = 0.26 + 0.2 * len(title.splitlines())
    figure.text(left, 1 - level / height, summary, fontsize=9, color=theme.muted)


def _summary(items: Sequence[GalleryItem], shown: int) -> str:
    passes = sum(item.false_pass for item in items)
    rejects = sum(item.false_reject for item in items)
    anomalies = sum(item.defect_type != _NORMAL for item in items)
    return (
        f"missed: {passes} of {anomalies} defects · "
        f"false alarms: {rejects} of {len(items) - anomalies} good parts · "
        f"{shown} of {len(items)} test images shown"
    )


def _draw_legend(
    figure: Figure,
    shown: Sequence[GalleryItem],
    limits: tuple[float, float],
    reject: Threshold,
    theme: Theme,
) -> None:
    """Draw the colour scale of the maps, and beside it the outlines that occur."""
    width, height = figure.get_size_inches()
    level = 1 - 0.84 / height
    axes = figure.add_axes((_MARGIN_INCHES / width, level, 2.4 / width, 0.12 / height))
    axes.imshow(heat_colours(np.linspace(0, 1, 256, dtype=np.float32)[None]), aspect="auto")
    axes.set_yticks([])
    axes.set_xticks(
        [0, 127.5, 255], ["quiet", f"reject above {reject.value:.3g}", f"{limits[1]:.3g}"]
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=9, labelcolor=theme.muted, color=theme.muted, length=3)
    first, _, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    figure.legend(
        handles=[_outline_sample(outline, words) for outline, words in _outlines(shown)],
        loc="center left",
        bbox_to_anchor=(2.7 / width, level),
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=theme.muted,
        columnspacing=1.4,
        handlelength=2.2,
    )


def _outlines(shown: Sequence[GalleryItem]) -> list[tuple[Outline, str]]:
    """The outlines of some pictures, and what each of them says."""
    found = [(TRUTH_OUTLINE, "true defect")] if any(one.truth is not None for one in shown) else []
    for verdict, outline in (("reject", REJECT_OUTLINE), ("review", REVIEW_OUTLINE)):
        if any(one.verdict == verdict for one in shown):
            found.append((outline, f"above {verdict}"))
    if any(one.false_pass for one in shown):
        found.append((MISSED_OUTLINE, "missed"))
    return found


def _outline_sample(outline: Outline, words: str) -> Line2D:
    black_edge = Stroke(
        linewidth=4, foreground="black", dashes={"dash_offset": 0, "dash_list": None}
    )
    return Line2D(
        [],
        [],
        color="#{:02x}{:02x}{:02x}".format(*outline.colour),
        linewidth=2,
        linestyle="-" if outline.dash is None else (0, outline.dash),
        label=words,
        path_effects=[black_edge, Normal()],
    )
