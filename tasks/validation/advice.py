"""Say what each ``images.scale`` leaves of the smallest defect, and what it costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stillwatch.geometry import STRIDE, Geometry, Shape
from stillwatch.images.manifest import ImageFacts, Manifest
from stillwatch.settings import ImageSettings, Settings
from stillwatch.tasks.validation.costs import (
    TWO_CORES,
    Cost,
    megapixels,
    recorded_cost,
    tile_count,
    training_megapixels,
)
from stillwatch.text import printable

SMALLEST_SEEN = 4.0
"""Pixels of what the network sees; a defect with a shorter side warns."""

_UNKNOWN = (
    "How small a defect can be is unknown: no mask shows one. Set checks.smallest_defect to the "
    "side of the smallest defect that matters, in pixels of the file."
)


@dataclass(frozen=True)
class SmallestDefect:
    """The smallest defect of a category."""

    path: str | None
    """The image that shows it, relative to the category's folder; None: as the setting
    ``checks.smallest_defect`` says."""
    width: float
    """Of the bounding box, in pixels of the file."""
    height: float

    def sentence(self) -> str:
        """Its size, and where it comes from."""
        size = _size(self.width, self.height)
        if self.path is None:
            return f"The smallest defect that matters: {size} pixels (checks.smallest_defect)."
        return f"The smallest annotated defect: {size} pixels, on {printable(self.path)}."


@dataclass(frozen=True)
class ScaleOption:
    """One setting of ``images.scale``, and what follows from it."""

    scale: Literal["fit"] | float
    size: int
    """Longer side in pixels, or side of a tile."""
    chosen: bool
    """Whether it is set."""
    seen_width: float
    """Of the smallest defect, in pixels of what the network sees."""
    seen_height: float
    tiles: int
    """Of an image, on average."""
    training_minutes: float | None
    """Of all detectors together; None where the time of one is unknown."""
    ms_per_image: float | None
    """Of the slowest detector."""

    @property
    def name(self) -> str:
        """Such as ``scale 0.5, tiles of 256``."""
        if self.scale == "fit":
            return f"scale fit, size {self.size}"
        return f"scale {self.scale}, tiles of {self.size}"

    @property
    def seen(self) -> str:
        """Width and height of the smallest defect in what the network sees."""
        return _size(self.seen_width, self.seen_height)

    @property
    def seen_side(self) -> float:
        """The shorter side of the smallest defect in what the network sees, in pixels."""
        return min(self.seen_width, self.seen_height)

    @property
    def training(self) -> str:
        """The time of the training in words."""
        if self.training_minutes is None:
            return "unknown"
        return f"about {_rounded(max(1, self.training_minutes))} min"

    @property
    def inspection(self) -> str:
        """The time of an image in words."""
        return "unknown" if self.ms_per_image is None else f"about {_rounded(self.ms_per_image)} ms"


@dataclass(frozen=True)
class ScaleAdvice:
    """What becomes of the smallest defect of a category."""

    defect: SmallestDefect | None
    """None: unknown."""
    options: tuple[ScaleOption, ...]
    """The present setting first; empty without a defect."""
    detectors: tuple[str, ...]
    """Whose times these are."""
    measured: bool
    """Whether all times were measured on this machine."""

    @property
    def chosen(self) -> ScaleOption | None:
        """The present setting."""
        return self.options[0] if self.options else None

    def sentences(self) -> tuple[str, ...]:
        """The smallest defect, and where the times come from; else what to set."""
        if self.defect is None:
            return (_UNKNOWN,)
        times = "measured on this machine"
        if not self.measured:
            times = "of a machine with two CPU cores and the detectors' default settings"
        return (
            self.defect.sentence(),
            f"The times are estimates for {', '.join(self.detectors)}, {times}.",
        )


def advise(manifest: Manifest, settings: Settings) -> ScaleAdvice | None:
    """Compare the present ``images.scale`` with others; None if no training image can be decoded.

    The times are those of earlier trainings, which the state folder holds.
    """
    learnt = [row for row in manifest.rows if row.split == "train"]
    shapes = _shapes(learnt)
    if not shapes:
        return None
    detectors = settings.retrain.detectors
    recorded = [recorded_cost(settings, name) for name in detectors]
    costs = [cost or TWO_CORES.get(name) for name, cost in zip(detectors, recorded, strict=True)]
    defect = _smallest(manifest, shapes, settings)
    if defect is None:
        return ScaleAdvice(defect=None, options=(), detectors=detectors, measured=all(recorded))
    trained = _shapes([row for row in learnt if row.part == "train"])
    options = tuple(
        _option(images, settings, defect, shapes=shapes, trained=trained, costs=costs)
        for images in _alternatives(settings.images)
    )
    return ScaleAdvice(
        defect=defect.defect, options=options, detectors=detectors, measured=all(recorded)
    )


@dataclass(frozen=True)
class _Defect:
    defect: SmallestDefect
    image: Shape
    """Height and width of the image that shows it."""

    def seen(self, geometry: Geometry) -> tuple[float, float]:
        """Width and height after scaling."""
        height, width = geometry.scaled_shape(*self.image)
        return (
            self.defect.width * width / self.image[1],
            self.defect.height * height / self.image[0],
        )


def _option(
    images: ImageSettings,
    settings: Settings,
    defect: _Defect,
    *,
    shapes: list[Shape],
    trained: list[Shape],
    costs: list[Cost | None],
) -> ScaleOption:
    """Estimate what one scale shows of the defect, and what it costs.

    Args:
        images: with the scale.
        settings: of the category.
        defect: the smallest one.
        shapes: height and width of all train normals.
        trained: of those that are trained on.
        costs: of each detector that is to be trained; None: unknown.
    """
    geometry = images.geometry(shapes)
    seen_width, seen_height = defect.seen(geometry)
    scaled = [geometry.scaled_shape(*shape) for shape in shapes]
    tiles = tile_count(scaled, geometry) / len(scaled)
    learnt = [geometry.scaled_shape(*shape) for shape in trained]
    known = [cost for cost in costs if cost is not None]
    complete = len(known) == len(costs)
    seconds = sum(
        cost.training_seconds
        * training_megapixels(learnt, geometry, settings.training, cost.most_epochs)
        for cost in known
    )
    slowest = max((cost.inspection_ms for cost in known), default=0.0)
    return ScaleOption(
        scale=images.scale,
        size=images.size,
        chosen=images == settings.images,
        seen_width=seen_width,
        seen_height=seen_height,
        tiles=round(tiles),
        training_minutes=seconds / 60 if complete else None,
        ms_per_image=slowest * tiles * megapixels(geometry) if complete else None,
    )


def _shapes(rows: Sequence[ImageFacts]) -> list[Shape]:
    """Height and width of the images that can be decoded."""
    return [(row.height, row.width) for row in rows if row.height and row.width]


def _smallest(manifest: Manifest, shapes: list[Shape], settings: Settings) -> _Defect | None:
    """The defect that is smallest at present; without masks, the one that the setting names."""
    geometry = settings.images.geometry(shapes)
    found = [
        _Defect(
            SmallestDefect(row.path, row.smallest_defect[1], row.smallest_defect[0]),
            (row.height, row.width),
        )
        for row in manifest.rows
        if row.mask and row.smallest_defect and row.split == "test" and row.height and row.width
    ]
    if found:
        return min(found, key=lambda one: sorted(one.seen(geometry)))
    side = settings.checks.smallest_defect
    if side is None:
        return None
    # Where images are fitted, the largest leaves least of a defect.
    return _Defect(SmallestDefect(None, side, side), max(shapes, key=math.prod))


def _alternatives(images: ImageSettings) -> list[ImageSettings]:
    """The present settings, then those with another scale and the same size."""
    tile = -(-images.size // STRIDE) * STRIDE
    others: list[tuple[Literal["fit"] | float, int]] = [
        ("fit", images.size),
        (0.5, tile),
        (1.0, tile),
    ]
    return [images] + [
        images.model_copy(update={"scale": scale, "size": size})
        for scale, size in others
        if scale != images.scale
    ]


def _size(width: float, height: float) -> str:
    """Width × height, with one decimal below 10 pixels."""
    sides = (round(side, 1) if side < 10 else round(side) for side in (width, height))
    return " × ".join(f"{side:g}" for side in sides)


def _rounded(value: float) -> str:
    """To two digits."""
    return f"{float(f'{value:.2g}'):g}"
