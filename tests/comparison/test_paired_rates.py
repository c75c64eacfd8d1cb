from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial

from stillwatch.comparison.paired_rates import rate_difference_interval

Outcome = tuple[int, int, int]


def outcomes(most: int) -> st.SearchStrategy[Outcome]:
    """Images gained and lost, and all images."""
    return st.integers(1, most).flatmap(
        lambda images: st.integers(0, images).flatmap(
            lambda gained: st.tuples(
                st.just(gained), st.integers(0, images - gained), st.just(images)
            )
        )
    )


def test_the_published_example() -> None:
    # Fagerland, Lydersen & Laake (2014): airway hyper-responsiveness, 1 and 7 of 21 children.
    assert rate_difference_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_images_on_which_both_agree_are_evidence_of_their_number() -> None:
    few, many = (rate_difference_interval(0, 0, images) for images in (10, 1000))
    assert few == pytest.approx((-0.278, 0.278), abs=1e-3)
    assert many == pytest.approx((-0.0038, 0.0038), abs=1e-4)


@given(outcomes(200))
def test_the_interval_holds_the_estimate_and_changes_sign_with_the_sides(outcome: Outcome) -> None:
    gained, lost, images = outcome
    low, high = rate_difference_interval(gained, lost, images)
    assert -1 <= low <= (gained - lost) / images <= high <= 1
    assert rate_difference_interval(lost, gained, images) == pytest.approx((-high, -low))


def resampled(gained: int, lost: int, images: int) -> float:
    """Upper end of the percentile bootstrap, of all resamples."""
    shares = [gained / images, lost / images, 1 - (gained + lost) / images]
    drawn = np.random.default_rng(0).multinomial(images, np.maximum(shares, 0), 4000)
    return float(np.quantile((drawn[:, 0] - drawn[:, 1]) / images, 0.975))


def tango(gained: int, lost: int, images: int) -> float:
    return rate_difference_interval(gained, lost, images)[1]


def most_false_harms(upper: Callable[[int, int, int], float], images: int, margin: float) -> float:
    """How often a true harm of just the margin is called larger, where that happens most."""
    called = [
        (gained, lost, images - gained - lost)
        for gained in range(images)
        for lost in range(gained + 1, images - gained + 1)
        if upper(gained, lost, images) < -margin - 1e-9
    ]
    shares = np.linspace(0, (1 - margin) / 2, 40)
    return max(
        float(
            multinomial.pmf(
                called, images, [gained, gained + margin, 1 - margin - 2 * gained]
            ).sum()
        )
        for gained in shares
    )


@pytest.mark.parametrize(("images", "margin"), [(10, 0.02), (10, 0.05), (15, 0.05), (20, 0.05)])
def test_a_harm_within_the_margin_is_seldom_called_larger_on_few_images(
    images: int, margin: float
) -> None:
    assert most_false_harms(tango, images, margin) < 0.035


def test_resampling_calls_it_larger_too_often() -> None:
    assert most_false_harms(resampled, 10, 0.05) > 0.05
