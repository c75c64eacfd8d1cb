"""The object category of the built-in sample set: a machined, brushed metal plate with holes."""

from dataclasses import dataclass

import numpy as np

from stillwatch.sample.canvas import (
    SIZE,
    Draws,
    Field,
    Mask,
    Point,
    bow,
    circle,
    curve_distance,
    direction,
    facing,
    falloff,
    look_up,
    pixel_grid,
    ramp,
    rounded_box,
    smooth_step,
    stretch,
    turn,
)

_HALF_HEIGHT, _HALF_WIDTH, _CORNER = 74.0, 94.0, 13.0
_BORE: Point = (0.0, -26.0)
_SLOT: Point = (0.0, 44.0)
_SLOT_SHAPE = ((24.0, 6.5), 6.5)
_CORNER_HOLES: tuple[Point, ...] = ((-54.0, -74.0), (-54.0, 74.0), (54.0, -74.0), (54.0, 74.0))
_DOWEL_HOLES: tuple[Point, ...] = ((-48.0, 6.0), (48.0, 6.0))
_HOLE, _SINK = 7.0, 11.5
_DOWEL, _DOWEL_SINK = 3.2, 4.4
_HOLES = (
    *((centre, _HOLE, _SINK) for centre in _CORNER_HOLES),
    *((centre, _DOWEL, _DOWEL_SINK) for centre in _DOWEL_HOLES),
    (_BORE, 21.0, 25.5),
)
_TILE = 320


@dataclass(frozen=True)
class Plate:
    """One plate as it lies before the camera.

    ``y`` and ``x`` are the coordinates on the plate of every pixel, in pixels from its middle;
    ``solid`` is the scene as if no hole had been drilled; ``hidden`` is 1 where no metal is seen.
    """

    y: Field
    x: Field
    light: Point
    solid: Field
    hidden: Field


def lay_out(draws: Draws) -> tuple[Plate, Field]:
    """Return a plate without a defect and its scene, (SIZE, SIZE) grey."""
    grid_y, grid_x = pixel_grid()
    scale = draws.between(0.985, 1.015)
    y, x = turn(grid_y, grid_x, draws.between(-0.055, 0.055))
    y = y * scale + draws.between(-8.0, 8.0)
    x = x * scale + draws.between(-8.0, 8.0)
    light = direction(-1.0 + draws.between(-0.3, 0.3), -0.8 + draws.between(-0.5, 0.5))
    outline = rounded_box(y, x, (0.0, 0.0), (_HALF_HEIGHT, _HALF_WIDTH), _CORNER)
    solid = _brushed(draws, y, x) + _bevel(outline, light, 3.0, 46.0)
    _mill_pocket(draws, solid, y, x, light)
    drilled, hidden = solid.copy(), np.zeros_like(solid)
    for centre, radius, sink in _HOLES:
        near = _near(centre, sink + 2.0)
        hole = circle(y[near], x[near], centre, radius)
        _drill(drilled[near], hidden[near], hole, sink - radius, light)
    near = _near(_SLOT, 28.0)
    _drill(
        drilled[near], hidden[near], rounded_box(y[near], x[near], _SLOT, *_SLOT_SHAPE), 1.5, light
    )
    table = _table(draws, outline, y, x, light)
    gain = draws.between(0.92, 1.08) * falloff(draws, 0.08, 0.22)
    plate = ramp(0.5 - outline)
    scene = (table + (drilled - table) * plate) * gain
    hidden = np.maximum(hidden, 1.0 - plate)
    return Plate(y=y, x=x, light=light, solid=solid * gain, hidden=hidden), scene


def _near(centre: Point, reach: float) -> tuple[slice, slice]:
    """Return the part of the image in which a feature of the plate lies, whatever the pose."""
    middle, around = (SIZE - 1) / 2, reach + 20.0
    return (
        slice(int(middle + centre[0] - around), int(middle + centre[0] + around)),
        slice(int(middle + centre[1] - around), int(middle + centre[1] + around)),
    )


def _brushed(draws: Draws, y: Field, x: Field) -> Field:
    long = stretch(draws.lattice(_TILE, 10), _TILE, 32)
    short = stretch(draws.lattice(_TILE, 40), _TILE, 8)
    tile = long * draws.between(8.0, 13.0) + short * 5.0
    sheen = (x - draws.between(-60.0, 60.0)) / draws.between(45.0, 75.0)
    glow = draws.between(18.0, 48.0) / (1.0 + sheen * sheen)
    brushed = 126.0 + glow + look_up(tile, y, x)
    brushed = brushed + draws.clouds(48) * 3.0
    return _wear(draws, brushed, y, x)


def _wear(draws: Draws, metal: Field, y: Field, x: Field) -> Field:
    """Add what every good plate has: faint hairlines along the brushing, and specks."""
    for _ in range(draws.below(4)):
        at_y, at_x = draws.between(-65.0, 65.0), draws.between(-80.0, 60.0)
        length, drift = draws.between(10.0, 34.0), draws.between(-2.0, 2.0)
        line = curve_distance(y, x, [(at_y, at_x), (at_y + drift, at_x + length)])
        metal = metal + ramp(1.0 - line) * draws.between(8.0, 20.0)
    for _ in range(draws.below(6)):
        centre = (draws.between(-70.0, 70.0), draws.between(-90.0, 90.0))
        speck = ramp(0.5 - circle(y, x, centre, draws.between(0.3, 1.2)))
        metal = metal + speck * draws.between(-36.0, 16.0)
    return metal


def _bevel(distance: Field, light: Point, width: float, strength: float) -> Field:
    """Return the light on the sloped rim just inside an outline."""
    rim = ramp(1.0 + distance / width) * ramp(0.5 - distance)
    return rim * facing(distance, light) * strength


def _mill_pocket(draws: Draws, metal: Field, y: Field, x: Field, light: Point) -> None:
    """Mill a shallow pocket around the slot, with tool marks across the brushing, in place."""
    near = _near(_SLOT, 42.0)
    y, x, part = y[near], x[near], metal[near]
    pocket = rounded_box(y, x, _SLOT, (40.0, 18.0), 9.0)
    marks = look_up(stretch(draws.lattice(_TILE, 10), _TILE, 32) * 7.0, x, y)
    floor = 116.0 + marks + draws.between(-6.0, 6.0)
    part += (floor - part) * ramp(0.5 - pocket)
    part -= _bevel(pocket - 2.5, light, 3.0, 40.0)


def _drill(metal: Field, hidden: Field, hole: Field, sink: float, light: Point) -> None:
    """Cut a countersunk hole, in place: its wall catches light on the side away from the lamp."""
    lit = facing(hole, light)
    ring = ramp(0.5 - (hole - sink))
    metal += (138.0 - lit * 62.0 - metal) * ring * 0.85
    wall = ramp(1.0 + hole / 3.5)
    depth = 24.0 + wall * ramp(0.15 - lit) * 62.0
    opening = ramp(0.5 - hole)
    metal += (depth - metal) * opening
    np.maximum(hidden, opening, out=hidden)


def _table(draws: Draws, outline: Field, y: Field, x: Field, light: Point) -> Field:
    base = draws.between(38.0, 50.0) + draws.clouds(64) * 4.0 + draws.clouds(4) * 3.0
    thrown = rounded_box(
        y + light[0] * 6.0, x + light[1] * 6.0, (0.0, 0.0), (_HALF_HEIGHT, _HALF_WIDTH), _CORNER
    )
    shadow = smooth_step(ramp(1.0 - thrown / 9.0))
    return base * (1.0 - 0.62 * shadow)


def _free_spot(draws: Draws, margin: float) -> Point:
    """Return a place on the plate that is ``margin`` away from holes, pocket and edges."""
    while True:
        y = draws.between(-_HALF_HEIGHT + margin, _HALF_HEIGHT - margin)
        x = draws.between(-_HALF_WIDTH + margin, _HALF_WIDTH - margin)
        clear = all(
            (y - cy) * (y - cy) + (x - cx) * (x - cx) > (sink + margin) * (sink + margin)
            for (cy, cx), _, sink in _HOLES
        )
        in_pocket = abs(x - _SLOT[1]) < 18.0 + margin and abs(y - _SLOT[0]) < 40.0 + margin
        if clear and not in_pocket:
            return y, x


def _scratch(plate: Plate, scene: Field, draws: Draws, severity: float) -> tuple[Field, Mask]:
    centre = _free_spot(draws, 5.0)
    reach = 6.0 + 25.0 * severity
    way = direction(draws.between(0.5, 1.0), draws.between(-0.9, 0.9))
    points = bow(centre, way, reach, draws.between(-0.4, 0.4) * reach)
    width = 0.5 + 0.7 * severity
    groove = ramp(width + 0.5 - curve_distance(plate.y, plate.x, points))
    flank = [(point[0] + 1.4, point[1] + 1.0) for point in points]
    dark = ramp(width + 0.5 - curve_distance(plate.y, plate.x, flank))
    on_metal = 1.0 - plate.hidden
    contrast = 20.0 + 58.0 * severity
    change = (groove * contrast - dark * (1.0 - groove) * contrast * 0.6) * on_metal
    return scene + change, (np.maximum(groove, dark) * on_metal) > 0.1


def _dent(plate: Plate, scene: Field, draws: Draws, severity: float) -> tuple[Field, Mask]:
    radius = 6.0 + 9.0 * severity
    centre_y, centre_x = _free_spot(draws, radius * 0.8)
    squeeze = draws.between(0.7, 1.0)
    y, x = turn(plate.y - centre_y, plate.x - centre_x, draws.between(-0.9, 0.9))
    y = y / squeeze
    fall = ramp(1.0 - (y * y + x * x) / (radius * radius))
    on_metal = 1.0 - plate.hidden
    lit = facing(fall * fall * radius, plate.light)
    change = lit * (16.0 + 46.0 * severity) - fall * fall * 10.0 * severity
    return scene + change * on_metal, (fall * on_metal) > 0.05


def _stain(plate: Plate, scene: Field, draws: Draws, severity: float) -> tuple[Field, Mask]:
    radius = 7.0 + 12.0 * severity
    centre = _free_spot(draws, 2.0 + radius * 0.4)
    ragged = circle(plate.y, plate.x, centre, radius) + draws.clouds(12) * radius * 0.35
    body = smooth_step(ramp(0.5 - ragged / 3.0))
    rim = ramp(1.0 - np.abs(ragged) / 2.5)
    on_metal = 1.0 - plate.hidden
    depth = 0.07 + 0.25 * severity
    change = (body * depth + rim * depth * 0.5) * on_metal
    return scene * (1.0 - change), (np.maximum(body, rim) * on_metal) > 0.1


def _missing_hole(plate: Plate, scene: Field, draws: Draws, severity: float) -> tuple[Field, Mask]:
    """Leave a corner hole or, when subtle, a dowel hole undrilled or not drilled through."""
    if severity > 0.55:
        centre = _CORNER_HOLES[draws.below(len(_CORNER_HOLES))]
        radius, left_over = _SINK, 0.0
    elif severity > 0.3:
        centre = _DOWEL_HOLES[draws.below(len(_DOWEL_HOLES))]
        radius, left_over = _DOWEL_SINK, 0.0
    else:
        centre = _CORNER_HOLES[draws.below(len(_CORNER_HOLES))]
        radius, left_over = _HOLE, 0.9 - severity
    spot = circle(plate.y, plate.x, centre, radius)
    fill = ramp(0.5 - spot) * (1.0 - left_over)
    return scene + (plate.solid - scene) * fill, spot < 1.0


DEFECTS = {
    "dent": _dent,
    "missing_hole": _missing_hole,
    "scratch": _scratch,
    "stain": _stain,
}
