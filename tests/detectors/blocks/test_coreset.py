"""The fast coreset against the textbook's loop."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stillwatch.detectors.blocks.coreset import greedy_coreset


def textbook(points: NDArray[np.float64], size: int) -> list[int]:
    chosen = [0]
    distances = np.full(len(points), np.inf)
    while len(chosen) < size:
        to_last = ((points - points[chosen[-1]]) ** 2).sum(axis=1)
        distances = np.minimum(distances, to_last)
        chosen.append(int(distances.argmax()))
    return chosen


@pytest.mark.parametrize(("count", "size"), [(50, 50), (300, 40), (9_000, 200)])
def test_the_choice_is_the_textbooks(count: int, size: int) -> None:
    """9,000 points are more than the working set holds."""
    points = np.random.default_rng(count).normal(size=(count, 6)).astype(np.float32)
    chosen = greedy_coreset(torch.from_numpy(points), size)
    assert chosen.tolist() == textbook(points.astype(np.float64), size)


def test_copies_are_chosen_once() -> None:
    points = torch.eye(3).repeat(4, 1)
    chosen = points[greedy_coreset(points, 12)]
    assert sorted(chosen.argmax(dim=1).tolist()) == [0, 1, 2]


def test_one_point() -> None:
    assert greedy_coreset(torch.ones(1, 4), 1).tolist() == [0]
