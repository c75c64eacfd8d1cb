import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, binom, kstest

from stillwatch.drift.martingale import BETS, log_capital, ranks_among_earlier

DENSITIES = (
    *((a, 1) for a in (0.1, 0.25, 0.5, 0.75, 2)),
    *((1, a) for a in (0.1, 0.25, 0.5, 0.75, 2)),
    (0.5, 0.5),
    (3, 3),
)
STREAMS, LENGTH, CALIBRATION = 600, 150, 20
BUDGET = 0.2
"""Large enough to be tested."""


@st.composite
def ranked(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Ranks of a short stream after a few calibration images, and how many are possible."""
    n, length = draw(st.integers(0, 60)), draw(st.integers(1, 12))
    cells = [n + t for t in range(1, length + 1)]
    return [draw(st.integers(0, count - 1)) for count in cells], cells


def cells_after(n: int, length: int) -> NDArray[np.int64]:
    return n + np.arange(1, length + 1)


def alarms(ranks: NDArray[np.int64], cells: NDArray[np.int64]) -> int:
    """How many streams ever alarm."""
    return int((log_capital(ranks, cells) >= -np.log(BUDGET)).any(axis=1).sum())


def drawn(kind: str) -> NDArray[np.float64]:
    """Exchangeable sequences, calibration first."""
    rng = np.random.default_rng(0)
    shape = STREAMS, CALIBRATION + LENGTH
    if kind == "urn":
        # Exchangeable and not independent: each row has a distribution of its own.
        return rng.normal(rng.normal(size=(STREAMS, 1)), rng.exponential(size=(STREAMS, 1)), shape)
    return {"distinct": rng.normal(size=shape), "ties": rng.geometric(0.4, shape)}[kind]


@pytest.mark.parametrize("kind", ["distinct", "ties", "urn"])
def test_exchangeable_scores_have_independent_uniform_ranks_and_few_alarms(kind: str) -> None:
    ranks = np.array(
        [
            ranks_among_earlier(row[CALIBRATION:], row[:CALIBRATION], seed=seed)
            for seed, row in enumerate(drawn(kind))
        ]
    )
    cells = cells_after(CALIBRATION, LENGTH)
    shares = (ranks + np.random.default_rng(1).random(ranks.shape)) / cells
    for some in (shares[:, 0], shares[:, -1], shares.ravel()):
        assert kstest(some, "uniform").pvalue > 1e-4
    neighbours = np.corrcoef(shares[:, :-1].ravel(), shares[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(STREAMS * LENGTH)
    assert alarms(ranks, cells) <= binom.ppf(0.9999, STREAMS, BUDGET)


def test_among_the_calibration_scores_alone_it_would_alarm_on_nothing() -> None:
    rows = drawn("distinct")
    calibration, scores = rows[:, None, :CALIBRATION], rows[:, CALIBRATION:, None]
    ranks = (calibration > scores).sum(axis=2)
    assert alarms(ranks, np.full(LENGTH, CALIBRATION + 1)) > 2 * BUDGET * STREAMS


@given(ranked())
def test_the_capital_is_the_sum_over_all_beginnings_and_bets(
    stream: tuple[list[int], list[int]],
) -> None:
    rank, cells = map(np.array, stream)
    assert len(DENSITIES) == BETS
    shares = []
    for a, b in DENSITIES:
        low, high = beta.cdf([rank / cells, (rank + 1) / cells], a, b)
        wins = cells * (high - low)
        for begin in range(1, rank.size + 1):
            shares.append(np.prod(wins[begin - 1 :]) / (begin * (begin + 1)) / len(DENSITIES))
    not_yet_bet = 1 / (rank.size + 1)
    expected = np.log(sum(shares) + not_yet_bet)
    assert log_capital(rank, cells)[-1] == pytest.approx(expected, abs=1e-9)


@given(ranked())
@settings(max_examples=50)
def test_the_next_rank_leaves_the_capital_as_it_is_on_average(
    stream: tuple[list[int], list[int]],
) -> None:
    ranks, cells = stream
    count = cells[-1] + 1
    after = log_capital([[*ranks, rank] for rank in range(count)], [*cells, count])
    before = log_capital(ranks, cells)[-1]
    assert np.exp(after[:, -1] - before).mean() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(after[:, -2], before, atol=1e-12)


@pytest.mark.parametrize("kind", ["highest", "lowest", "uniform"])
def test_long_streams_stay_finite(kind: str) -> None:
    length = 300_000
    cells = cells_after(CALIBRATION, length)
    uniform = np.floor(np.random.default_rng(0).random(length) * cells)
    ranks = {"highest": 0 * cells, "lowest": cells - 1, "uniform": uniform}[kind]
    capital = log_capital(ranks, cells)
    assert np.isfinite(capital).all()
    assert (capital.max() >= -np.log(0.01)) == (kind != "uniform")


@pytest.mark.parametrize("change", [(2.0, 1.0), (-2.0, 1.0), (0.0, 3.0), (0.0, 0.1)])
@pytest.mark.parametrize("begin", [101, 2001])
def test_a_change_is_found_soon_whenever_it_comes(change: tuple[float, float], begin: int) -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(size=begin - 1), rng.normal(*change, 200)])
    ranks = ranks_among_earlier(scores, rng.normal(size=CALIBRATION), seed=0)
    capital = log_capital(ranks, cells_after(CALIBRATION, scores.size))
    found = np.flatnonzero(capital >= -np.log(0.01)) + 1
    assert begin <= found[0] < begin + 100
