import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.drift.ranking import random_order, smaller_before

# Few distinct values, so that ties are common.
SCORES = st.lists(st.sampled_from([0.1, 0.2, 0.3, 5.0]), max_size=30)


@given(st.integers(0, 70).flatmap(lambda count: st.permutations(range(count))))
def test_smaller_numbers_before_are_counted(order: list[int]) -> None:
    counts = smaller_before(np.array(order, dtype=np.int64))
    for place, number in enumerate(order):
        assert counts[number] == sum(other < number for other in order[:place])


@given(SCORES, SCORES, st.integers(0, 2**256))
def test_the_order_is_that_of_the_scores_and_of_nothing_that_comes_later(
    calibration: list[float], scores: list[float], seed: int
) -> None:
    order = random_order(scores, calibration, seed=seed)
    assert sorted(order) == list(range(len(calibration) + len(scores)))
    assert (np.diff(np.array(calibration + scores)[order]) >= 0).all()
    longer = random_order([*scores, 0.2, 0.1], calibration, seed=seed)
    assert [number for number in longer if number < order.size] == order.tolist()


def test_ties_are_broken_evenly() -> None:
    firsts = [random_order([1.0, 1.0], [1.0], seed=seed)[0] for seed in range(900)]
    assert (np.abs(np.bincount(firsts) - 300) < 4 * np.sqrt(900 * 2 / 9)).all()
