import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillwatch.evaluation import metrics
from stillwatch.evaluation.bootstrap import (
    grid_metrics,
    image_metrics,
    intervals,
    rejection_rates,
    resample_weights,
)
from stillwatch.evaluation.pixel_metrics import (
    count_pixels,
    exact_pixel_metrics,
    grid_counts,
    sort_pixels,
)

STRATA = ("good",) * 12 + ("scratch",) * 8 + ("dent",) * 5


def pixel_set(
    rng: np.random.Generator, side: int = 96
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Smooth noise with defects from plain to invisible, each image defective as STRATA says."""
    masks = np.zeros((len(STRATA), side, side), bool)
    strength = np.zeros(masks.shape)
    for image, stratum in enumerate(STRATA):
        for _ in range(0 if stratum == "good" else rng.integers(1, 4)):
            row, column = rng.integers(0, side - 20, 2)
            height, width = rng.integers(2, 20, 2)
            masks[image, row : row + height, column : column + width] = True
            strength[image, row : row + height, column : column + width] = rng.uniform(0, 4)
    return rng.normal(strength, 1).astype(np.float32), masks


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("levels", [None, 200])
def test_the_grid_agrees_with_the_exact_figures(seed: int, levels: int | None) -> None:
    maps, masks = pixel_set(np.random.default_rng(seed))
    if levels:
        maps = np.round(maps * levels / 8) / levels
    exact = exact_pixel_metrics(count_pixels(sort_pixels(maps, masks)))
    found = grid_metrics(grid_counts(maps, masks), np.ones((1, len(maps))))
    assert {name: value[0] for name, value in found.items()} == pytest.approx(exact, abs=1e-3)


def test_weighted_sums_are_the_figures_of_the_resampled_images() -> None:
    maps, masks = pixel_set(np.random.default_rng(3))
    weights = resample_weights(STRATA, 4, seed=5)
    found = grid_metrics(grid_counts(maps, masks), weights)
    for resample, weight in enumerate(weights.astype(int)):
        drawn = np.repeat(np.arange(len(maps)), weight)
        exact = exact_pixel_metrics(count_pixels(sort_pixels(maps[drawn], masks[drawn])))
        assert {n: v[resample] for n, v in found.items()} == pytest.approx(exact, abs=1e-3)


def test_image_intervals_are_quantiles_over_resampled_images() -> None:
    rng = np.random.default_rng(4)
    labels = np.array([stratum != "good" for stratum in STRATA])
    scores = np.round(rng.normal(labels, 1), 1)
    rejected = scores > 0.8
    weights = resample_weights(STRATA, 200, seed=6)
    drawn = [np.repeat(np.arange(len(labels)), weight.astype(int)) for weight in weights]
    found = intervals(image_metrics(labels, scores, rejected, weights))
    expected = [metrics.image_metrics(labels[d], scores[d], rejected[d]) for d in drawn]
    assert found.keys() == expected[0].keys()
    for name in found:
        values = [figures[name] for figures in expected]
        assert found[name] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_rates_are_those_of_the_resampled_images() -> None:
    labels = np.array([stratum != "good" for stratum in STRATA])
    rejected = np.random.default_rng(8).random(len(labels)) < 0.5
    weights = resample_weights(STRATA, 20, seed=9)
    found = rejection_rates(labels, rejected, weights)
    for resample, weight in enumerate(weights.astype(int)):
        drawn = np.repeat(np.arange(len(labels)), weight)
        recall, false_alarms = (rejected[drawn][labels[drawn] == kind].mean() for kind in (1, 0))
        assert found["recall"][resample] == pytest.approx(recall)
        assert found["false_alarm_rate"][resample] == pytest.approx(false_alarms)


def test_a_rate_of_nothing_is_absent() -> None:
    weights = np.ones((1, 2))
    assert rejection_rates([True, True], [True, False], weights).keys() == {"recall"}
    assert rejection_rates([False, False], [True, False], weights).keys() == {"false_alarm_rate"}


@given(
    st.lists(st.sampled_from(["good", "scratch", "dent"]), min_size=1, max_size=30),
    st.integers(0, 100),
)
def test_every_resample_keeps_the_size_of_every_stratum(strata: list[str], seed: int) -> None:
    weights = resample_weights(strata, 20, seed)
    assert (weights >= 0).all()
    for stratum in set(strata):
        members = [s == stratum for s in strata]
        np.testing.assert_array_equal(weights[:, members].sum(1), sum(members))
    np.testing.assert_array_equal(weights, resample_weights(strata, 20, seed))


def test_seeds_differ() -> None:
    assert (resample_weights(STRATA, 5, 0) != resample_weights(STRATA, 5, 1)).any()


def test_the_interval_covers_the_true_auroc_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    strata = ("good",) * 60 + ("dent",) * 60
    labels = np.array([stratum != "good" for stratum in strata])
    true_auroc = 0.76025  # of two normal distributions one standard deviation apart
    covered = 0
    for seed in range(200):
        scores = rng.normal(labels, 1)
        weights = resample_weights(strata, 200, seed)
        low, high = intervals(image_metrics(labels, scores, labels, weights))["image_auroc"]
        covered += low <= true_auroc <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_image_of_each_kind_has_intervals_without_width() -> None:
    weights = resample_weights(["good", "dent"], 100, 0)
    found = intervals(image_metrics([False, True], [0.1, 0.9], [False, True], weights))
    assert set(found.values()) == {(1.0, 1.0)}


def test_resamples_without_a_region_are_left_out() -> None:
    masks = np.zeros((3, 8, 8), bool)
    masks[2, 2:4, 2:4] = True  # the other anomaly of the stratum has no mask
    counts = grid_counts(masks.astype(np.float32), masks)
    found = intervals(grid_metrics(counts, resample_weights(["good", "dent", "dent"], 100, 0)))
    assert found == {
        name: pytest.approx((1.0, 1.0)) for name in ("pixel_auroc", "pixel_ap", "aupro")
    }


def test_a_resample_without_a_region_keeps_its_place() -> None:
    masks = np.zeros((3, 8, 8), bool)
    masks[2, 2:4, 2:4] = True
    weights = np.array([[1.0, 1, 1], [1, 2, 0], [1, 0, 2]])
    found = grid_metrics(grid_counts(masks.astype(np.float32), masks), weights)
    for values in found.values():
        np.testing.assert_allclose(values, [1, np.nan, 1])


def test_without_defect_free_pixels_there_is_only_precision() -> None:
    masks = np.ones((1, 4, 4), bool)
    found = intervals(grid_metrics(grid_counts(masks.astype(np.float32), masks), np.ones((10, 1))))
    assert found == {"pixel_ap": (1.0, 1.0)}
