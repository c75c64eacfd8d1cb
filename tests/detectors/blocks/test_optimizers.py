"""Muon: orthogonal factor, length of a step, Adam for vectors; StableAdamW against its formula."""

import pytest
import torch
from torch import nn

from stillwatch.detectors.blocks.optimizers import Muon, StableAdamW, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (8, 72), (72, 8), (1, 5)])
def test_singular_values_end_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_orthogonal_factor_keeps_the_singular_vectors() -> None:
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.5]))
    result = orthogonalised(matrix)
    torch.testing.assert_close(result, torch.diag(result.diagonal()), atol=1e-6, rtol=0)


def test_a_step_is_as_long_as_the_rate_says_relative_to_the_kernel() -> None:
    kernel = nn.Parameter(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1)))
    before = kernel.detach().clone()
    kernel.grad = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(2)) * 1e-3
    Muon([kernel], lr=0.1).step()
    moved = (kernel - before).norm() / before.norm()
    assert moved.item() == pytest.approx(0.1, rel=1e-4)


def test_vectors_take_adams_step() -> None:
    bias = nn.Parameter(torch.zeros(3))
    bias.grad = torch.tensor([2.0, -0.001, 0.0])
    Muon([bias], lr=0.1).step()
    torch.testing.assert_close(bias.detach(), torch.tensor([-0.025, 0.025, 0.0]), rtol=1e-3, atol=0)


def test_it_finds_the_minimum() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    inputs, wanted = torch.randn(64, 4), torch.randn(4, 4)
    optimizer = Muon(layer.parameters(), lr=0.05)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        loss = (layer(inputs) - inputs @ wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_stable_adamw_by_hand() -> None:
    """The second gradient is ten times the first: its step is limited. The third is 0."""
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = StableAdamW([weight], lr=0.5, weight_decay=0.1, eps=0.0)
    expected = 2.0
    mean, square = 0.0, 0.0
    for step, gradient in enumerate((0.01, 0.1, 0.0), start=1):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = max(square, 0.999 * square + 0.001 * gradient**2)  # the largest so far
        root = (square / (1 - 0.999**step)) ** 0.5
        limit = (1.0, 1.40685, 1.0)[step - 1]
        expected = 0.95 * expected - 0.5 * mean / (1 - 0.9**step) / root / limit
        assert weight.item() == pytest.approx(expected, rel=1e-5)


def test_stable_adamw_shortens_all_gradients_together() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0]), torch.tensor([-4.0])
    StableAdamW(weights, lr=0.5).step()
    assert [weight.grad.item() for weight in weights] == pytest.approx([0.06, -0.08], rel=1e-4)
    assert [weight.item() for weight in weights] == pytest.approx([-0.5, 0.5], rel=1e-4)
