"""Distances, averages and smoothing against values worked out by hand and against scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from stillwatch.detectors.blocks.maps import (
    averaged,
    cosine_distance,
    flattened_cosine_loss,
    gaussian_filter,
    mined_share,
    normalised_distance,
    position_cosine_loss,
    with_mined_gradient,
)


def positions(*vectors: tuple[float, float]) -> torch.Tensor:
    """One image of one row, two channels, one vector per position: (1, 2, 1, n)."""
    return torch.tensor(vectors).T[None, :, None, :]


def test_cosine_distance_by_hand() -> None:
    a = positions((1, 0), (1, 0), (2, 0), (3, 4))
    b = positions((5, 0), (0, 7), (-1, 0), (4, 3))
    expected = torch.tensor([[[0, 1, 2, 1 - 24 / 25]]])
    torch.testing.assert_close(cosine_distance(a, b), expected)


def test_normalised_distance_is_twice_the_cosine_distance() -> None:
    a = positions((1, 0), (1, 0), (2, 0), (3, 4))
    b = positions((5, 0), (0, 7), (-1, 0), (4, 3))
    expected = torch.tensor([[[0, 2, 4, 2 - 48 / 25]]])
    torch.testing.assert_close(normalised_distance(a, b), expected)


def test_normalised_distance_resolves_nearly_equal_vectors() -> None:
    a, b = positions((1, 0)), positions((1, 1e-4))
    assert float(normalised_distance(a, b)) == pytest.approx(1e-8, rel=1e-3)


def test_flattened_loss_takes_a_whole_map_as_one_vector() -> None:
    # Level 1, channels first: (1, 0, 0, 3) against (1, 3, 0, 0), cos 1/10; single positions would
    # have given the mean of 0 and 1. Level 2: orthogonal.
    teacher = [positions((1, 0), (0, 3)), positions((1, 0))]
    student = [positions((1, 0), (3, 0)), positions((0, 1))]
    torch.testing.assert_close(flattened_cosine_loss(teacher, student), torch.tensor(0.9 + 1))


def test_flattened_loss_is_the_mean_over_images_and_the_sum_over_levels() -> None:
    one = torch.tensor([[1.0, 0], [0, 1]])[:, :, None, None]
    other = torch.tensor([[1.0, 0], [1, 0]])[:, :, None, None]
    torch.testing.assert_close(flattened_cosine_loss([one, one], [other, one]), torch.tensor(0.5))


def test_position_loss_takes_each_position_as_a_vector() -> None:
    # Level 1: distances 0 and 1; level 2: orthogonal.
    teacher = [positions((1, 0), (0, 3)), positions((1, 0))]
    student = [positions((1, 0), (3, 0)), positions((0, 1))]
    torch.testing.assert_close(position_cosine_loss(teacher, student), torch.tensor(0.5 + 1))


@pytest.mark.parametrize("shape", [(64, 64), (40, 24), (7, 5), (1, 3)])
def test_smoothing_equals_scipy(shape: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    expected = np.stack([ndimage.gaussian_filter(one.astype(np.float64), 4.0) for one in maps])
    smooth = gaussian_filter(torch.from_numpy(maps), 4.0)(torch.from_numpy(maps))
    assert smooth.dtype == torch.float32
    np.testing.assert_allclose(smooth.numpy(), expected, atol=1e-6)


def test_averages_by_hand() -> None:
    maps = torch.tensor([[[0.0, 4.0, 1.0, 1.0], [0.0, 8.0, 1.0, 5.0]]])
    assert averaged(maps, 2).tolist() == [[[3, 2]]]


def test_the_share_of_easy_positions_rises_linearly_and_stays() -> None:
    shares = [mined_share(0.9, progress, rise=0.25) for progress in (0.0, 0.125, 0.25, 1.0)]
    assert shares == pytest.approx([0, 0.45, 0.9, 0.9])


def test_positions_that_are_alike_get_a_tenth_of_the_gradient() -> None:
    """Distances 0, 1, 2 and 0.04: the first and the last are the easy half."""
    teacher = positions((1, 0), (1, 0), (2, 0), (3, 4))
    student = positions((5, 0), (0, 7), (-1, 0), (4, 3)).float().requires_grad_()
    mined = with_mined_gradient(teacher, student, 0.5)
    assert torch.equal(mined, student)
    mined.sum().backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad[0, :, 0], torch.tensor([[0.1, 1, 1, 0.1]] * 2))


def test_without_an_easy_share_every_gradient_stays() -> None:
    student = torch.rand(1, 2, 3, 3)
    assert with_mined_gradient(torch.rand(1, 2, 3, 3), student, 0.0) is student
