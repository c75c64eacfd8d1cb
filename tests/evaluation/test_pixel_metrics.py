from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, roc_auc_score

from stillwatch.evaluation.pixel_metrics import (
    PixelCounts,
    aupro,
    count_on_grid,
    count_pixels,
    evaluation_shape,
    exact_pixel_metrics,
    grid_counts,
    pixel_curves,
    sort_pixels,
    threshold_grid,
)

Maps = NDArray[np.float32]
Masks = NDArray[np.bool_]


def counts_of(maps: Maps, masks: Masks) -> PixelCounts:
    return count_pixels(sort_pixels(maps, masks))


def figures(maps: Maps, masks: Masks) -> dict[str, float]:
    return exact_pixel_metrics(counts_of(maps, masks))


def brute_force_aupro(
    maps: Sequence[Maps], masks: Sequence[Masks], counted: Sequence[Masks], limit: float = 0.3
) -> float:
    """The definition, threshold by threshold."""
    regions = []
    for image, (mask, inside) in enumerate(zip(masks, counted, strict=True)):
        labels, count = label(mask & inside, structure=np.ones((3, 3)))
        regions += [maps[image][labels == region] for region in range(1, count + 1)]
    pairs = list(zip(maps, masks, counted, strict=True))
    defect_free = np.concatenate([values[inside & ~mask] for values, mask, inside in pairs])
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(np.concatenate([values[inside] for values, _, inside in pairs]))[
        ::-1
    ]:
        rates.append(np.mean(defect_free >= threshold))
        overlaps.append(np.mean([(region >= threshold).mean() for region in regions]))
    end = int(np.searchsorted(rates, limit, side="right"))
    at_limit = np.interp(limit, rates[end - 1 : end + 1], overlaps[end - 1 : end + 1])
    return float(np.trapezoid([*overlaps[:end], at_limit], [*rates[:end], limit]) / limit)


@st.composite
def test_sets(draw: st.DrawFn) -> tuple[Maps, Masks]:
    """Up to 4 small images, some good; at least one defective and one defect-free pixel."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 7)), draw(st.integers(2, 7)))
    masks = rng.random(shape) < draw(st.sampled_from([0.05, 0.3, 0.7]))
    masks[0, 0, 0], masks[0, 1, 1] = True, False
    masks[1:][rng.random(shape[0] - 1) < 0.4] = False
    levels = draw(st.sampled_from([1, 3, 1000]))
    maps = rng.integers(-levels, levels + 1, shape) / 4 + masks * draw(st.sampled_from([0, 1]))
    return maps.astype(np.float32), masks


test_sets.__test__ = False  # type: ignore[attr-defined]


@settings(max_examples=200)
@given(test_sets())
def test_aupro_is_its_definition(data: tuple[Maps, Masks]) -> None:
    everywhere = np.ones(data[1].shape, bool)
    assert figures(*data)["aupro"] == pytest.approx(brute_force_aupro(*data, everywhere))


@st.composite
def ragged_test_sets(draw: st.DrawFn) -> tuple[list[Maps], list[Masks], list[Masks]]:
    """Up to 4 small images of unequal shapes, of which only some pixels count.

    At least one defective and one defect-free pixel count.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sides = st.integers(2, 7)
    shapes = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=4))
    masks = [rng.random(shape) < 0.3 * (rng.random() < 0.7) for shape in shapes]
    counted = [rng.random(shape) < rng.choice([0.0, 0.6, 1.0]) for shape in shapes]
    masks[0][0, 0], masks[0][1, 1] = True, False
    counted[0][[0, 1], [0, 1]] = True
    maps = [(rng.integers(-3, 4, mask.shape) / 4 + mask).astype(np.float32) for mask in masks]
    return maps, masks, counted


ragged_test_sets.__test__ = False  # type: ignore[attr-defined]


@settings(max_examples=200)
@given(ragged_test_sets())
def test_figures_of_unequal_shapes_are_those_of_the_pixels_that_count(
    data: tuple[list[Maps], list[Masks], list[Masks]],
) -> None:
    maps, masks, counted = data
    found = exact_pixel_metrics(count_pixels(sort_pixels(maps, masks, counted)))
    truth = np.concatenate([mask[inside] for mask, inside in zip(masks, counted, strict=True)])
    values = np.concatenate([one[inside] for one, inside in zip(maps, counted, strict=True)])
    assert found["aupro"] == pytest.approx(brute_force_aupro(maps, masks, counted))
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, values))
    assert found["pixel_ap"] == pytest.approx(average_precision_score(truth, values))


@given(ragged_test_sets(), st.integers(0, 99))
def test_pixels_that_do_not_count_change_nothing(
    data: tuple[list[Maps], list[Masks], list[Masks]], seed: int
) -> None:
    maps, masks, counted = data
    rng = np.random.default_rng(seed)
    other_maps = [
        np.where(inside, one, rng.normal(0, 9, one.shape)).astype(np.float32)
        for one, inside in zip(maps, counted, strict=True)
    ]
    other_masks = [
        np.where(inside, mask, rng.random(mask.shape) < 0.5)
        for mask, inside in zip(masks, counted, strict=True)
    ]
    one, other = grid_counts(maps, masks, counted), grid_counts(other_maps, other_masks, counted)
    for name, values in vars(one).items():
        np.testing.assert_array_equal(getattr(other, name), values, err_msg=name)


@given(test_sets())
def test_pixel_auroc_and_ap_are_scikit_learns(data: tuple[Maps, Masks]) -> None:
    maps, masks = data
    found = figures(maps, masks)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))
    assert found["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()))


@given(test_sets(), st.randoms())
def test_figures_know_no_order_no_scale_and_no_bounds_but_their_own(
    data: tuple[Maps, Masks], random: object
) -> None:
    maps, masks = data
    order = list(range(len(maps)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = figures(maps, masks)
    assert all(-1e-12 <= value <= 1 + 1e-12 for value in found.values())
    assert figures(maps[order], masks[order]) == pytest.approx(found)
    assert figures(maps[:, :, ::-1], masks[:, :, ::-1]) == pytest.approx(found)
    assert figures(maps * 8 - 3, masks) == pytest.approx(found)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((256, 256), 256, (256, 256)),
        ((500, 1250), 256, (102, 256)),
        ((1250, 500), 256, (256, 102)),
        ((30, 60), 256, (128, 256)),
        ((1, 5000), 256, (1, 256)),
    ],
)
def test_the_longer_side_is_the_evaluation_size(
    shape: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    assert evaluation_shape(*shape, size) == expected


def one_defect() -> tuple[Maps, Masks]:
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 2:4, 2:6] = True
    return masks.astype(np.float32), masks


def test_a_perfect_map_scores_one() -> None:
    assert figures(*one_defect()) == pytest.approx({"aupro": 1, "pixel_auroc": 1, "pixel_ap": 1})


def test_a_constant_map_scores_chance() -> None:
    _, masks = one_defect()
    found = figures(np.full(masks.shape, -2.5, np.float32), masks)
    assert found == pytest.approx({"aupro": 0.15, "pixel_auroc": 0.5, "pixel_ap": 8 / 200})


def test_an_inverted_map_scores_nothing() -> None:
    maps, masks = one_defect()
    found = figures(-maps, masks)
    assert found["aupro"] == found["pixel_auroc"] == 0


def test_minus_zero_is_zero() -> None:
    maps, masks = one_defect()
    constant = np.where(masks, np.float32(0.0), np.float32(-0.0))
    assert figures(constant, masks)["pixel_auroc"] == 0.5
    assert maps.min() == 0


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    masks = np.zeros((1, 6, 6), bool)
    masks[0, [1, 2], [1, 2]] = True
    masks[0, 5, 5] = True
    assert sort_pixels(masks.astype(np.float32), masks).region_areas.tolist() == [2, 1]


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    masks = np.zeros((1, 20, 20), bool)
    masks[0, :8, :8] = True
    masks[0, 15, 15] = True
    only_large = np.zeros(masks.shape, np.float32)
    only_large[0, :8, :8] = 1
    # The small one is found with the rest: from half to the end of the diagonal.
    assert figures(only_large, masks)["aupro"] == pytest.approx(0.5 + 0.15 * 0.5)


def test_false_positives_on_good_images_count() -> None:
    maps, masks = one_defect()
    noisy = maps.copy()
    noisy[1, :5] = 2
    assert figures(noisy, masks)["aupro"] < 0.8
    assert figures(noisy[:1], masks[:1])["aupro"] == pytest.approx(1)


def test_the_limit_is_interpolated_between_thresholds() -> None:
    # Points of the curve: (0, 0), (0.2, 0.4), (0.6, 0.8), (1, 1); at the limit 0.3 it is 0.5.
    overlap, false_positives = np.array([0.4, 0.8, 1.0]), np.array([2.0, 6.0, 10.0])
    area = 0.2 * 0.4 / 2 + 0.1 * (0.4 + 0.5) / 2
    assert aupro(overlap, false_positives) == pytest.approx(area / 0.3)
    assert aupro(overlap, false_positives, 1.0) == pytest.approx(0.04 + 0.24 + 0.36)


def test_without_defect_free_pixels_only_precision_is_left() -> None:
    masks = np.ones((1, 3, 3), bool)
    found = counts_of(np.arange(9, dtype=np.float32).reshape(1, 3, 3), masks)
    assert exact_pixel_metrics(found) == {"pixel_ap": pytest.approx(1)}
    assert pixel_curves(found, threshold_grid(found)) == {}


@given(test_sets())
def test_per_image_counts_add_up_to_the_whole(
    data: tuple[Maps, Masks],
) -> None:
    maps, masks = data
    pixels = sort_pixels(maps, masks)
    counts = count_pixels(pixels)
    grid = threshold_grid(counts)
    assert grid[-1] == len(counts.overlap) - 1
    per_image = count_on_grid(pixels, counts.ranks[grid])
    np.testing.assert_allclose(per_image.true_positives.sum(0), counts.true_positives[grid])
    np.testing.assert_allclose(per_image.false_positives.sum(0), counts.false_positives[grid])
    np.testing.assert_allclose(
        per_image.overlap.sum(0) / per_image.regions.sum(), counts.overlap[grid]
    )
    np.testing.assert_array_equal(per_image.true_positives[:, -1], masks.sum((1, 2)))


def test_curves_are_thinned_and_end_where_they_must() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((10, 64, 64), bool)
    masks[:6, 10:30, 10:30] = True
    maps = rng.normal(masks.astype(float), 1).astype(np.float32)
    counts = counts_of(maps, masks)
    curves = pixel_curves(counts, threshold_grid(counts))
    for curve in (curves["pro"], curves["pixel_roc"]):
        assert len(curve.x) < 4200 < len(counts.overlap)
        assert (np.diff(curve.x) >= 0).all()
        assert (np.diff(curve.y) >= -1e-12).all()
        assert (curve.x[0], curve.y[0]) == (0, 0)
        assert (curve.x[-1], curve.y[-1]) == pytest.approx((1, 1))
