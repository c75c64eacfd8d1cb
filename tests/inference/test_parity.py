from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from made_bundles import brightness, image_of, make_bundle
from numpy.typing import NDArray

from stillwatch.calibration import Verdict
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.parity import Parity, Scores, compare, difference
from stillwatch.inference.stitching import Scorer

BEFORE = Scores((1.0, 2.0, 3.0), ("pass", "review", "reject"))


SCORES = st.lists(st.floats(0, 2, width=32), min_size=1, max_size=20)


@given(SCORES, st.integers(0, 2**32 - 1))
def test_runs_within_the_tolerance_agree(scores: list[float], seed: int) -> None:
    noise = np.random.default_rng(seed).uniform(-1e-4, 1e-4, len(scores))
    verdicts: tuple[Verdict, ...] = ("pass",) * len(scores)
    run = Scores(tuple(scores), verdicts)
    other = Scores(tuple(np.array(scores) + noise), verdicts)
    assert difference(run, other, (1.0, 1.5), 1.1e-4) is None
    assert difference(run, run, (1.0,), 0.0) is None


def test_another_score_or_another_verdict_is_named() -> None:
    moved = Scores((1.0, 2.1, 3.0), BEFORE.verdicts)
    assert difference(BEFORE, moved, (1.5, 2.5), 0.01) == (
        "image 1 scores 2 in one run and 2.1 in the other, more than 0.01 apart"
    )
    said = Scores(BEFORE.scores, ("pass", "review", "review"))
    assert "image 2 has the verdict" in str(difference(BEFORE, said, (1.5, 2.5), 1e-6))


def test_within_the_tolerance_of_a_threshold_the_verdict_may_differ() -> None:
    near = Scores((1.0, 1.9999, 3.0), ("pass", "pass", "reject"))
    assert difference(BEFORE, near, (2.0, 2.5), 1e-3) is None


def test_a_lost_image_or_score_is_a_difference() -> None:
    short = Scores((1.0, 2.0), ("pass", "review"))
    assert "3 scores are compared with 2" in str(difference(BEFORE, short, (1.5,), 1e-6))
    unknown = Scores((np.nan, 2.0, 3.0), BEFORE.verdicts)
    assert "not finite" in str(difference(BEFORE, unknown, (1.5,), 1e-6))


def compared(folder: Path, other: Scorer) -> Parity:
    """Two runs on images that score 20, 99, 100 and 200, where 98 and 100 are thresholds."""
    bundle = make_bundle(folder)
    images = np.stack([image_of(score) for score in (20, 99, 100, 200)])
    first, second = (Inspector(bundle, scorer).inspect(images) for scorer in (brightness, other))
    return compare(first, second, bundle.info.calibration)


def test_inspections_agree_within_the_tolerance(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda tiles: [brightness(tiles)[0] + np.float32(0.005)])
    assert found.problem is None
    assert (found.images, found.tolerance) == (4, 0.01)  # 1e-4 of the threshold
    assert found.verdicts_compared == 3  # the image that scores 100 is at a threshold
    np.testing.assert_allclose([found.score_difference, found.map_difference], 0.005, rtol=1e-2)


def test_maps_are_compared_where_no_score_comes_from(tmp_path: Path) -> None:
    def dark_pixels_apart(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        (level,) = brightness(tiles)
        level[:, 0, 0] = 0.5
        return [level]

    found = compared(tmp_path, dark_pixels_apart)
    assert found.score_difference == 0
    assert found.map_difference == 0.5
    assert found.problem == "the maps differ by up to 0.5, more than 0.01"


def test_inspections_that_differ_say_so(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda tiles: [brightness(tiles)[0] * np.float32(1.1)])
    assert "in one run" in (found.problem or "")
    np.testing.assert_allclose(found.score_difference, 20, rtol=1e-4)
