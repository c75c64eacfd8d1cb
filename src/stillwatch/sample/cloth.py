"""The texture category of the built-in sample set: a twill cloth of blue warp and pale weft."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    falloff,
    look_up,
    pixel_grid,
    ramp,
    smooth_step,
    soften,
    stretch,
    to_bytes,
    turn,
)

_PITCH = 8.0
_THREADS = 48
_FIBRE_TILE = 256
_WARP = (74.0, 92.0, 138.0)
_WEFT = (168.0, 166.0, 152.0)
_GAP = (26.0, 28.0, 36.0)
_TABLE = (24.0, 22.0, 20.0)
_RED = (158.0, 62.0, 52.0)
_OIL = (0.75, 0.85, 1.0)
_TONE_STEP = 6

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Weave:
    """Where every pixel lies in the weave, before it is decided which thread is on top.

    ``warp`` and ``weft`` number the threads, ``across_warp`` and ``across_weft`` in [0, 1] run
    across each of them; ``warp_tone`` and ``weft_tone`` are the brightness of the yarn there.
    """

    warp: Index
    weft: Index
    across_warp: Field
    across_weft: Field
    warp_tone: Field
    weft_tone: Field
    warp_on_top: Mask
    gain: Field
    tint: tuple[float, float, float]


def expose(scene: Field, noise: Field) -> NDArray[np.uint8]:
    """Return the photograph of a scene, uint8 (SIZE, SIZE, 3) RGB, in steps of 6 grey values."""
    return to_bytes(soften(scene) + (noise * 1.2)[..., None], _TONE_STEP)


def lay_out(draws: Draws) -> tuple[Weave, Field]:
    """Return a piece of cloth without a defect and its scene, (SIZE, SIZE, 3) RGB."""
    grid_y, grid_x = pixel_grid()
    v, u = turn(grid_y, grid_x, draws.between(-0.035, 0.035))
    scale = draws.between(0.96, 1.04) / _PITCH
    v = (v + draws.clouds(64) * 3.0) * scale + draws.between(24.0, 28.0)
    u = (u + draws.clouds(64) * 3.0) * scale + draws.between(24.0, 28.0)
    wander = stretch(draws.lattice(_THREADS, 12), _THREADS * 4, 16) * 0.16
    u = u + look_up(wander, np.floor(u), v * 4.0)
    wander = stretch(draws.lattice(_THREADS, 12), _THREADS * 4, 16) * 0.16
    v = v + look_up(wander, np.floor(v), u * 4.0)
    warp, weft = np.floor(u), np.floor(v)
    warp_tone = _yarn(draws, warp, u, v)
    weft_tone = _yarn(draws, weft, v, u)
    columns, rows = warp.astype(np.int64), weft.astype(np.int64)
    weave = Weave(
        warp=columns,
        weft=rows,
        across_warp=u - warp,
        across_weft=v - weft,
        warp_tone=warp_tone,
        weft_tone=weft_tone,
        warp_on_top=(columns - rows) % 4 < 2,
        gain=_light(draws),
        tint=(draws.between(0.97, 1.03), 1.0, draws.between(0.97, 1.03)),
    )
    return weave, _shade(weave, weave.warp_on_top)


def _light(draws: Draws) -> Field:
    lit = falloff(draws, 0.1, 0.2)
    folds = draws.clouds(96) * 0.05
    return (lit + folds) * draws.between(0.92, 1.08)


def _yarn(draws: Draws, thread: Field, across: Field, along: Field) -> Field:
    """Return the brightness of a set of parallel yarns: dye, slubs and twisted fibres."""
    dye = draws.lattice(_THREADS)[thread.astype(np.int64) % _THREADS]
    slubs = look_up(stretch(draws.lattice(_THREADS, 12), _THREADS * 4, 16), thread, along * 4.0)
    fibres = stretch(draws.lattice(_FIBRE_TILE, 64), _FIBRE_TILE, 4)
    twist = look_up(fibres, across * _PITCH * 1.2 + along * 3.0, along * _PITCH)
    return 1.0 + dye * 0.05 + slubs * 0.09 + twist * 0.13


def _shade(weave: Weave, warp_on_top: Mask) -> Field:
    """Return the light of the woven cloth, float (SIZE, SIZE, 3)."""
    across = np.where(warp_on_top, weave.across_warp, weave.across_weft)
    along = np.where(warp_on_top, weave.across_weft, weave.across_warp)
    step = np.where(
        warp_on_top, (weave.warp - weave.weft) % 2, (weave.weft - weave.warp) % 2
    ).astype(np.float64)
    place = np.where(warp_on_top, 1.0 - step + along, step + along) / 2.0
    centred = 2.0 * across - 1.0
    round_off = 1.0 - centred * centred
    crown = 0.62 + 0.38 * (4.0 * place * (1.0 - place))
    tone = np.where(warp_on_top, weave.warp_tone, weave.weft_tone)
    shade = smooth_step(ramp(round_off * 1.15)) * crown * tone
    top = warp_on_top[..., None]
    yarn = np.where(top, np.array(_WARP) * np.array(weave.tint), np.array(_WEFT))
    gap = np.array(_GAP)
    cloth: Field = (gap + (yarn - gap) * shade[..., None]) * weave.gain[..., None]
    return cloth


def _spot(draws: Draws) -> Point:
    """Return a place on the cloth, in pixels from the middle."""
    return draws.between(-96.0, 96.0), draws.between(-96.0, 96.0)


def _blend(scene: Field, colour: Field, share: Field) -> Field:
    return scene + (colour - scene) * share[..., None]


def _hole(weave: Weave, scene: Field, draws: Draws, severity: float) -> tuple[Field, Mask]:
    """Tear a ragged hole, through which the dark table and a few broken yarns are seen."""
    y, x = pixel_grid()
    radius = 2.2 + 10.6 * severity
    ragged = circle(y, x, _spot(draws), radius) + draws.clouds(6) * radius * 0.3
    opening = ramp(0.5 - ragged / 1.5)
    survives = draws.lattice(_THREADS)[weave.weft % _THREADS] > 0.1
    strand = ramp(1.0 - np.abs(weave.across_weft - 0.5) * 4.0) * survives
    yarn = 0.55 * strand * weave.weft_tone * ramp(-ragged / 3.0)
    behind = np.array(_TABLE) + (np.array(_WEFT) - np.array(_TABLE)) * yarn[..., None]
    fray = ramp(1.0 - np.abs(ragged - 1.5) / 2.5) * draws.clouds(4) * 0.25 * severity
    frayed = scene * (1.0 + fray)[..., None]
    torn = _blend(frayed, behind * weave.gain[..., None], opening)
    return torn, (opening > 0.02) | (np.abs(fray) > 0.02)


def _thread(weave: Weave, scene: Field, draws: Draws, severity: float) -> tuple[Field, Mask]:
    """Lay a loose yarn on the cloth: red and long, or short and of the weft's own colour."""
    y, x = pixel_grid()
    middle = _spot(draws)
    reach = 8.0 + 34.0 * severity
    way = direction(draws.between(-1.0, 1.0), draws.between(-1.0, 1.0) + 0.01)
    points = bow(middle, way, reach, draws.between(-0.9, 0.9) * reach)
    radius = 1.0 + 0.8 * severity
    distance = curve_distance(y, x, points)
    below = curve_distance(y, x, [(py + 1.6, px + 1.2) for py, px in points])
    shadow = ramp(radius + 1.5 - below) * 0.4
    body = ramp(radius + 0.5 - distance)
    colour = np.array(_WEFT) * 0.8 + (np.array(_RED) - np.array(_WEFT) * 0.8) * severity
    lit = (1.05 - 0.3 * distance / (radius + 0.5)) * (1.0 + draws.clouds(4) * 0.12) * weave.gain
    laid = _blend(scene * (1.0 - shadow)[..., None], colour * lit[..., None], body)
    return laid, np.maximum(shadow, body) > 0.02


def _stain(weave: Weave, scene: Field, draws: Draws, severity: float) -> tuple[Field, Mask]:
    """Soak a blot of oil into the yarns: darker and warmer, most of all at its rim."""
    y, x = pixel_grid()
    radius = 9.0 + 17.0 * severity
    ragged = circle(y, x, _spot(draws), radius) + draws.clouds(16) * radius * 0.35
    body = smooth_step(ramp(0.5 - ragged / 4.0))
    rim = ramp(1.0 - np.abs(ragged) / 3.0)
    depth = (body + rim * 0.35) * (0.12 + 0.34 * severity)
    soaked = scene * (1.0 - depth[..., None] * np.array(_OIL))
    return soaked, np.maximum(body, rim) > 0.05


def _misweave(weave: Weave, scene: Field, draws: Draws, severity: float) -> tuple[Field, Mask]:
    """Let picks of weft float over, or run under, the warps that they should have crossed."""
    picks = 1 + int(2.2 * severity)
    length = 3 + int(18.0 * severity)
    centre = (
        SIZE // 2 + int(draws.between(-80.0, 80.0)),
        SIZE // 2 + int(draws.between(-60.0, 60.0)),
    )
    first_pick = weave.weft[centre]
    first_warp = weave.warp[centre] - length // 2
    rows = (weave.weft >= first_pick) & (weave.weft < first_pick + picks)
    wrong = rows & (weave.warp >= first_warp) & (weave.warp < first_warp + length)
    under = draws.below(2) == 1
    woven = _shade(weave, np.where(wrong, under, weave.warp_on_top))
    return woven, wrong


DEFECTS = {
    "hole": _hole,
    "misweave": _misweave,
    "stain": _stain,
    "thread": _thread,
}
