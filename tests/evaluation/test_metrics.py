import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from stillwatch.evaluation.metrics import (
    f1,
    image_auroc,
    image_average_precision,
    oracle_f1,
    roc_curve,
)

Labelled = tuple[NDArray[np.bool_], NDArray[np.float64]]


@st.composite
def labelled_scores(draw: st.DrawFn) -> Labelled:
    """At least one anomaly and one normal; few distinct scores, so that ties are common."""
    size = draw(st.integers(2, 40))
    labels = [True, False, *draw(st.lists(st.booleans(), min_size=size - 2, max_size=size - 2))]
    scores = draw(st.lists(st.integers(-6, 6), min_size=size, max_size=size))
    return np.array(labels), np.array(scores, dtype=float) / 3


ALL = (image_auroc, image_average_precision, oracle_f1)


@settings(max_examples=40)
@given(labelled_scores())
def test_figures_are_scikit_learns(data: Labelled) -> None:
    labels, scores = data
    assert image_auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert image_average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores)
    )
    best = max(f1_score(labels, scores >= threshold) for threshold in np.unique(scores))
    assert oracle_f1(labels, scores) == pytest.approx(best)


@given(labelled_scores())
def test_roc_curve_is_scikit_learns(data: Labelled) -> None:
    labels, scores = data
    fpr, tpr, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    curve = roc_curve(labels, scores)
    np.testing.assert_allclose(curve.x, fpr)
    np.testing.assert_allclose(curve.y, tpr)


@given(labelled_scores(), st.randoms())
def test_figures_know_no_order_no_scale_and_no_bounds_but_their_own(
    data: Labelled, random: object
) -> None:
    labels, scores = data
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for figure in ALL:
        value = figure(labels, scores)
        assert 0 <= value <= 1
        assert figure(labels[order], scores[order]) == pytest.approx(value)
        assert figure(labels, np.exp(scores) + 7) == pytest.approx(value)


@given(labelled_scores())
def test_auroc_of_the_opposite_is_the_rest(data: Labelled) -> None:
    labels, scores = data
    assert image_auroc(labels, -scores) == pytest.approx(1 - image_auroc(labels, scores))


def test_known_cases() -> None:
    labels = np.array([False, False, True, True])
    for figure in ALL:
        assert figure(labels, [1, 2, 3, 4]) == 1
    assert image_auroc(labels, [1, 1, 1, 1]) == 0.5
    assert image_auroc(labels, [4, 3, 2, 1]) == 0
    assert image_average_precision(labels, [1, 3, 2, 4]) == pytest.approx((1 + 2 / 3) / 2)
    assert oracle_f1(labels, [1, 3, 2, 4]) == pytest.approx(4 / 5)


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_one_kind_of_image_has_no_ranking(labels: list[bool]) -> None:
    for figure in (*ALL, roc_curve):
        with pytest.raises(ValueError, match="both anomalies and normals"):
            figure(labels, [0.0, 1.0])


def test_f1_from_counts() -> None:
    assert f1(3, 1, 4) == pytest.approx(2 * 0.75 * 0.75 / 1.5)
    assert f1(0, 0, 4) == 0
    np.testing.assert_allclose(f1([0, 4], [0, 0], [4, 4]), [0, 1])
