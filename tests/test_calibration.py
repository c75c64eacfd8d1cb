from collections.abc import Sequence
from fractions import Fraction
from math import comb, factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from stillwatch.calibration import (
    Calibration,
    calibrate,
    chance_of_false_alarms,
    clopper_pearson,
    images_needed,
    p_values,
    reachable_alpha,
    verdict,
)
from stillwatch.errors import CalibrationError

# Few distinct values, so that ties are common.
SCORES = st.lists(
    st.one_of(st.sampled_from([0.1, 0.2, 0.3]), st.floats(-100, 100, width=32)),
    min_size=19,
    max_size=80,
)
ALPHAS = st.sampled_from([0.05, 0.07, 0.1, 0.15, 0.29, 1 / 3, 0.5])


def reject_at(scores: Sequence[float] | np.ndarray, alpha: float) -> Calibration:
    return calibrate(scores, alpha_reject=alpha, alpha_review=alpha)


@pytest.mark.parametrize(
    ("n", "alpha", "rank"),
    [(19, 0.05, 19), (39, 0.05, 38), (40, 0.05, 39), (99, 0.01, 99), (99, 0.07, 93), (6, 0.15, 6)],
)
def test_rank_is_exact_in_the_printed_alpha(n: int, alpha: float, rank: int) -> None:
    threshold = reject_at(np.arange(1, n + 1), alpha).reject
    assert (threshold.rank, threshold.value, threshold.n) == (rank, rank, n)
    assert threshold.bound == (n + 1 - rank) / (n + 1) <= alpha


def test_one_image_too_few_is_refused_and_told_how_many_and_which_alpha() -> None:
    with pytest.raises(CalibrationError, match=r"alpha_reject 0\.05 needs 19 .* are 17: add 2"):
        calibrate(np.arange(17), alpha_reject=0.05, alpha_review=0.15)
    with pytest.raises(CalibrationError, match=r"alpha_reject to 0\.05556 or more"):
        calibrate(np.arange(17), alpha_reject=0.05, alpha_review=0.15)
    reject_at(np.arange(17), 0.05556)


def test_no_image_at_all_is_refused_without_a_reachable_alpha() -> None:
    with pytest.raises(CalibrationError, match=r"there are 0: add 19 more good images[^,]*\.$"):
        calibrate([], alpha_reject=0.05, alpha_review=0.15)


@given(st.integers(1, 100_000))
def test_the_reachable_alpha_is_reachable_and_close(n: int) -> None:
    alpha = reachable_alpha(n)
    assert images_needed(alpha) <= n
    assert 1 / (n + 1) <= alpha <= 1.002 / (n + 1)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_an_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        images_needed(alpha)


def test_review_below_reject_is_refused() -> None:
    with pytest.raises(CalibrationError, match="alpha_review"):
        calibrate(np.arange(50), alpha_reject=0.1, alpha_review=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="1 of 31 calibration scores"):
        reject_at([*range(30), bad], 0.05)


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (30, 0.1), (57, 0.15)])
def test_false_alarm_rate_of_exchangeable_images_is_within_its_bounds(n: int, alpha: float) -> None:
    draws = 6000
    rng = np.random.default_rng(1)
    thresholds = [reject_at(row, alpha).reject for row in rng.random((draws, n))]
    # Scores are uniform, so that the true rate of a threshold is what lies above it.
    rates = np.array([1 - threshold.value for threshold in thresholds])
    bound = thresholds[0].bound
    assert abs(rates.mean() - bound) < 4 * rates.std() / np.sqrt(draws)
    assert bound <= alpha
    assert abs(np.mean(rates <= thresholds[0].rate_95) - 0.95) < 4 * np.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize(("parts", "frames"), [(30, 2), (20, 3), (59, 1)])
def test_frames_of_one_part_count_once(parts: int, frames: int) -> None:
    """Each part has ``frames`` images of one score: the bounds without the repeats hold."""
    draws, repeats = 4000, parts * (frames - 1)
    scores = np.random.default_rng(3).random((draws, parts))
    drawn = [reject_at(np.repeat(row, frames), 0.05).reject for row in scores]
    sure = drawn[0].without_repeats(repeats)
    assert (sure.value, sure.n, sure.alpha) == (drawn[0].value, parts, 0.05)
    rates = np.array([1 - threshold.value for threshold in drawn])
    assert rates.mean() < sure.bound + 4 * rates.std() / np.sqrt(draws)
    assert np.mean(rates <= sure.rate_95) > 0.95 - 4 * np.sqrt(0.05 * 0.95 / draws)


def test_one_frame_repeated_above_the_threshold_is_the_worst_case_in_both_bounds() -> None:
    """40 images: two are above the threshold, and of the others 20 show one part."""
    threshold = reject_at(np.arange(40), 0.05).reject
    assert threshold.without_repeats(0) == threshold
    sure = threshold.without_repeats(20)
    assert (sure.n, sure.rank, sure.bound) == (20, 19, 2 / 21)
    assert sure.rate_95 == pytest.approx(beta.ppf(0.95, 2, 19))
    nothing_is_known = threshold.without_repeats(39)
    assert (nothing_is_known.bound, nothing_is_known.rate_95) == (1, 1)


def test_ties_keep_the_bound() -> None:
    """Discrete scores: the rate stays below the bound, it need not reach it."""
    rng = np.random.default_rng(2)
    draws = rng.integers(0, 4, (4000, 20))
    alarms = [row[-1] > reject_at(row[:-1], 0.05).reject.value for row in draws]
    assert np.mean(alarms) <= 0.05


@given(SCORES, ALPHAS, st.randoms())
def test_a_threshold_is_one_float32_score_whatever_the_order(
    scores: list[float], alpha: float, random: object
) -> None:
    calibration = reject_at(scores, alpha)
    assert calibration.reject.value in np.asarray(scores, np.float32).tolist()
    assert float(np.float32(calibration.reject.value)) == calibration.reject.value
    assert list(calibration.scores) == sorted(calibration.scores)
    shuffled = list(scores)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert reject_at(shuffled, alpha) == calibration


@given(SCORES, ALPHAS, ALPHAS)
def test_a_higher_alpha_never_raises_the_threshold(
    scores: list[float], first: float, second: float
) -> None:
    calibration = calibrate(
        scores, alpha_reject=min(first, second), alpha_review=max(first, second)
    )
    assert calibration.review.value <= calibration.reject.value
    assert calibration.review.bound >= calibration.reject.bound
    assert calibration.review.rate_95 >= calibration.reject.rate_95
    assert calibration.reject.rate_95 > calibration.reject.bound


@given(SCORES, ALPHAS, st.lists(st.floats(-101, 101, width=32), min_size=1, max_size=20))
def test_p_value_and_verdict_say_the_same(
    scores: list[float], alpha: float, others: list[float]
) -> None:
    calibration = reject_at(scores, alpha)
    new = np.array([*scores, *others], np.float32)
    p = p_values(new, calibration.scores)
    assert ((p > 0) & (p <= 1)).all()
    rejected = np.array([verdict(score, calibration) == "reject" for score in new.tolist()])
    np.testing.assert_array_equal(rejected, p <= calibration.reject.bound)
    assert (p[rejected] <= alpha).all()


@given(SCORES, st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20))
def test_p_values_count_and_fall_with_the_score(scores: list[float], new: list[float]) -> None:
    p = p_values(sorted(new), scores)
    assert (np.diff(p) <= 0).all()
    as_float32 = np.asarray(scores, np.float32)
    expected = [(1 + np.sum(as_float32 >= s)) / (len(scores) + 1) for s in sorted(new)]
    np.testing.assert_array_equal(p, expected)


def test_p_values_are_uniform_on_normals() -> None:
    rng = np.random.default_rng(3)
    draws = rng.random((4000, 20))
    p = np.array([p_values(row[:1], row[1:])[0] for row in draws])
    for alpha in (0.05, 0.1, 0.5):
        assert abs(np.mean(p <= alpha) - alpha) < 4 * np.sqrt(alpha * (1 - alpha) / 4000)


def test_verdicts_change_above_the_thresholds_not_at_them() -> None:
    calibration = calibrate(np.arange(1, 101), alpha_reject=0.05, alpha_review=0.15)
    reject, review = calibration.reject.value, calibration.review.value
    assert (reject, review) == (96, 86)
    scores = [review, np.nextafter(review, 200), reject, np.nextafter(reject, 200)]
    assert [verdict(score, calibration) for score in scores] == [
        "pass",
        "review",
        "review",
        "reject",
    ]


@given(st.integers(0, 300), st.integers(1, 300), st.sampled_from([0.8, 0.95, 0.99]))
def test_clopper_pearson_is_scipys(k: int, n: int, confidence: float) -> None:
    expected = binomtest(min(k, n), n).proportion_ci(confidence, method="exact")
    np.testing.assert_allclose(
        clopper_pearson(min(k, n), n, confidence), (expected.low, expected.high), atol=1e-12
    )


def exact_chance_of_false_alarms(k: int, m: int, *, n: int, rank: int) -> float:
    """The sum over the beta-binomial distribution, in whole numbers."""
    a, b = n + 1 - rank, rank

    def beta(x: int, y: int) -> Fraction:
        return Fraction(factorial(x - 1) * factorial(y - 1), factorial(x + y - 1))

    total = sum(comb(m, j) * beta(j + a, m - j + b) for j in range(k, m + 1))
    return float(total / beta(a, b))


@given(st.data(), st.integers(1, 60), st.integers(0, 60))
def test_the_chance_of_false_alarms_is_the_exact_sum(data: st.DataObject, n: int, m: int) -> None:
    rank = data.draw(st.integers(1, n))
    k = data.draw(st.integers(0, m))
    expected = exact_chance_of_false_alarms(k, m, n=n, rank=rank)
    assert chance_of_false_alarms(k, m, n=n, rank=rank) == pytest.approx(expected, abs=1e-9)


def test_the_chance_of_false_alarms_among_thousands_of_normals() -> None:
    """With one calibration score, every number of false alarms from 0 to m is equally likely."""
    assert chance_of_false_alarms(1000, 2000, n=1, rank=1) == pytest.approx(1001 / 2001)


def test_clopper_pearson_of_nothing_says_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
