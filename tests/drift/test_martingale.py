import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, binom, kstest

from stillwatch.calibration import p_values
from stillwatch.drift.martingale import BETS, log_capital, online_p_values

P_VALUES = st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=12)
STREAMS, LENGTH, CALIBRATION = 600, 150, 20
BUDGET = 0.2


def alarms(streams: NDArray[np.float64]) -> int:
    """How many rows of p-values ever alarm by a budget that is large enough to be tested."""
    return int((log_capital(streams) >= -np.log(BUDGET)).any(axis=1).sum())


def drawn(kind: str, seed: int = 0) -> NDArray[np.float64]:
    """Exchangeable sequences, calibration first."""
    rng = np.random.default_rng(seed)
    shape = STREAMS, CALIBRATION + LENGTH
    if kind == "urn":
        # Exchangeable and not independent: each row has a distribution of its own.
        return rng.normal(rng.normal(size=(STREAMS, 1)), rng.exponential(size=(STREAMS, 1)), shape)
    return {"distinct": rng.normal(size=shape), "ties": rng.geometric(0.4, shape)}[kind]


@pytest.mark.parametrize("kind", ["distinct", "ties", "urn"])
def test_exchangeable_scores_have_independent_uniform_p_values_and_few_alarms(kind: str) -> None:
    streams = np.array(
        [
            online_p_values(row[CALIBRATION:], row[:CALIBRATION], seed=seed)
            for seed, row in enumerate(drawn(kind))
        ]
    )
    for p in (streams[:, 0], streams[:, -1], streams.ravel()):
        assert kstest(p, "uniform").pvalue > 1e-4
    neighbours = np.corrcoef(streams[:, :-1].ravel(), streams[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(STREAMS * LENGTH)
    assert alarms(streams) <= binom.ppf(0.9999, STREAMS, BUDGET)


def test_against_the_calibration_scores_alone_it_would_alarm_on_nothing() -> None:
    rows = drawn("distinct")
    fixed = np.array([p_values(row[CALIBRATION:], row[:CALIBRATION]) for row in rows])
    spread = np.random.default_rng(1).random(fixed.shape) / (CALIBRATION + 1)
    assert alarms(fixed - spread) > 2 * BUDGET * STREAMS


@given(P_VALUES)
def test_the_capital_is_the_sum_over_all_beginnings_and_bets(p: list[float]) -> None:
    shares = []
    for a, b in BETS:
        bets = beta.pdf(p, a, b)
        for begin in range(1, len(p) + 1):
            shares.append(np.prod(bets[begin - 1 :]) / (begin * (begin + 1)) / len(BETS))
    not_yet_bet = 1 / (len(p) + 1)
    assert log_capital(p)[-1] == pytest.approx(np.log(sum(shares) + not_yet_bet), abs=1e-9)


@given(P_VALUES, st.lists(st.floats(0, 1), max_size=5))
def test_what_comes_later_changes_nothing(p: list[float], more: list[float]) -> None:
    np.testing.assert_allclose(log_capital(p + more)[: len(p)], log_capital(p), atol=1e-12)
    streams = np.array([p + more, p + more])
    np.testing.assert_array_equal(log_capital(streams)[1], log_capital(p + more))


@given(P_VALUES)
@settings(max_examples=20)
def test_a_bet_is_worth_what_is_paid_for_it(past: list[float]) -> None:
    """The next p-value, uniform, leaves the capital as it is on average (and never above it)."""
    x = np.linspace(-27, 27, 1001)
    p = 1 / (1 + np.exp(-x))
    after = log_capital([[*past, one] for one in p])[:, -1] - log_capital(past)[-1]
    mean = float(np.trapezoid(np.exp(after) * p * (1 - p), x))
    # Of the bets on sudden changes, what they would win on p-values below 1e-12 is missing.
    assert 0.9 < mean < 1.0001


def test_long_streams_and_extreme_p_values_stay_finite() -> None:
    uniform = np.random.default_rng(0).random(300_000)
    quiet = log_capital(uniform)
    assert np.isfinite(quiet).all()
    assert quiet.max() < -np.log(0.01)
    for p in (0.0, 1.0, 0.5):
        assert np.isfinite(log_capital(np.full(1000, p))).all()


@pytest.mark.parametrize("change", [(2.0, 1.0), (-2.0, 1.0), (0.0, 3.0), (0.0, 0.1)])
@pytest.mark.parametrize("begin", [101, 2001])
def test_a_change_is_found_soon_whenever_it_comes(change: tuple[float, float], begin: int) -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(size=begin - 1), rng.normal(*change, 200)])
    p = online_p_values(scores, rng.normal(size=CALIBRATION), seed=0)
    found = np.flatnonzero(log_capital(p) >= -np.log(0.01)) + 1
    assert begin <= found[0] < begin + 100
