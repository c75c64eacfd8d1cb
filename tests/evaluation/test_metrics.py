import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from stillwatch.evaluation import bootstrap
from stillwatch.evaluation.counts import f1
from stillwatch.evaluation.metrics import image_metrics, roc_curve

Labelled = tuple[NDArray[np.bool_], NDArray[np.float64]]


@st.composite
def labelled_scores(draw: st.DrawFn) -> Labelled:
    """At least one anomaly and one normal; few distinct scores, so that ties are common."""
    size = draw(st.integers(2, 40))
    labels = [True, False, *draw(st.lists(st.booleans(), min_size=size - 2, max_size=size - 2))]
    scores = draw(st.lists(st.integers(-6, 6), min_size=size, max_size=size))
    return np.array(labels), np.array(scores, dtype=float) / 3


@given(labelled_scores(), st.floats(-2, 2))
def test_figures_from_counts_are_scikit_learns(data: Labelled, threshold: float) -> None:
    """The bootstrap computes its figures from counts, with weight 1 for each image here."""
    labels, scores = data
    rejected = scores > threshold
    found = bootstrap.image_metrics(labels, scores, rejected, np.ones((1, len(labels))))
    assert {name: value[0] for name, value in found.items()} == pytest.approx(
        image_metrics(labels, scores, rejected)
    )


@settings(max_examples=40)
@given(labelled_scores())
def test_oracle_f1_is_the_highest_over_all_thresholds(data: Labelled) -> None:
    labels, scores = data
    best = max(f1_score(labels, scores >= threshold) for threshold in np.unique(scores))
    assert image_metrics(labels, scores, labels)["f1_oracle"] == pytest.approx(best)


@given(labelled_scores())
def test_roc_curve_has_a_point_for_each_distinct_score(data: Labelled) -> None:
    labels, scores = data
    curve = roc_curve(labels, scores)
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    thresholds = np.unique(scores)[::-1]
    np.testing.assert_allclose(curve.x[1:], [(scores >= t)[~labels].mean() for t in thresholds])
    np.testing.assert_allclose(curve.y[1:], [(scores >= t)[labels].mean() for t in thresholds])


def test_known_cases() -> None:
    labels = np.array([False, False, True, True])
    assert set(image_metrics(labels, [1, 2, 3, 4], labels).values()) == {1}
    found = image_metrics(labels, [1, 3, 2, 4], [False, True, False, True])
    assert found["image_ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["f1_oracle"] == pytest.approx(4 / 5)
    assert found["f1"] == 0.5
    assert image_metrics(labels, [1, 1, 1, 1], labels)["image_auroc"] == 0.5
    found = image_metrics(labels, [4, 3, 2, 1], [False] * 4)
    assert (found["image_auroc"], found["f1"]) == (0, 0)


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_one_kind_of_image_has_no_ranking(labels: list[bool]) -> None:
    with pytest.raises(ValueError, match="both anomalies and normals"):
        image_metrics(labels, [0.0, 1.0], [False, True])
    with pytest.raises(ValueError, match="both anomalies and normals"):
        roc_curve(labels, [0.0, 1.0])


def test_f1_from_counts() -> None:
    assert f1(3, 1, 4) == pytest.approx(2 * 0.75 * 0.75 / 1.5)
    assert f1(0, 0, 4) == 0
    np.testing.assert_allclose(f1([0, 4], [0, 0], [4, 4]), [0, 1])
