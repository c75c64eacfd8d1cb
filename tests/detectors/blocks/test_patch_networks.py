"""Patch networks: the paper's layers, and dense evaluation against one patch at a time."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from stillwatch.detectors.blocks.patch_networks import (
    PatchNetwork,
    PatchSize,
    Stride,
)

SIZES: tuple[PatchSize, ...] = (17, 33, 65)


def network(patch_size: PatchSize) -> PatchNetwork:
    torch.manual_seed(0)
    return PatchNetwork(patch_size).eval()


@pytest.mark.parametrize(
    ("patch_size", "parameters"), [(17, 2_996_480), (33, 1_616_000), (65, 1_386_624)]
)
def test_layers_are_the_papers(patch_size: PatchSize, parameters: int) -> None:
    made = network(patch_size)
    assert sum(p.numel() for p in made.parameters()) == parameters
    assert made(torch.rand(2, 3, patch_size, patch_size)).shape == (2, 128, 1, 1)


@pytest.mark.parametrize(
    ("patch_size", "sides"),
    [(17, [12, 8, 4, 1]), (33, [29, 10, 4, 1]), (65, [61, 26, 9, 1, 1])],
)
def test_convolutions_leave_the_papers_sizes(patch_size: PatchSize, sides: list[int]) -> None:
    """Between them pools: 29 to 14, 10 to 5; 61 to 30, 26 to 13, 9 to 4."""
    made, seen = network(patch_size), []

    class Recording(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if func is torch.conv2d:
                seen.append(result.shape[2:])
            return result

    with Recording():
        made(torch.rand(1, 3, patch_size, patch_size))
    assert seen == [(side, side) for side in sides]


@pytest.mark.parametrize(("patch_size", "field"), [(17, 17), (33, 32), (65, 60)])
def test_receptive_field_by_its_gradient(patch_size: PatchSize, field: int) -> None:
    made = network(patch_size)
    # Sum of many inputs' gradients: a maximum hides the pixels that lose it.
    seen = torch.zeros(patch_size, patch_size)
    for _ in range(8):
        patch = torch.rand(1, 3, patch_size, patch_size, requires_grad=True)
        (gradient,) = torch.autograd.grad(made(patch).square().sum(), patch)
        seen += gradient.abs().sum(dim=(0, 1))
    rows, columns = (int((seen.sum(dim=axis) > 0).sum()) for axis in (0, 1))
    assert (rows, columns) == (field, field) == (made.receptive_field,) * 2


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("patch_size", SIZES)
def test_dense_evaluation_equals_one_patch_at_a_time(patch_size: PatchSize, stride: Stride) -> None:
    made = network(patch_size)
    image = torch.rand(1, 3, patch_size + 16, patch_size + 17)
    with torch.no_grad():
        dense = made(image, stride)
        for row, column in {(0, 0), (stride, 0), (16, 16), (16, 16 - stride), (16 - stride, 16)}:
            patch = image[..., row : row + patch_size, column : column + patch_size]
            torch.testing.assert_close(
                dense[0, :, row // stride, column // stride],
                made(patch)[0, :, 0, 0],
                rtol=0,
                atol=1e-5,
            )


@pytest.mark.parametrize("patch_size", SIZES)
def test_every_pixel_of_an_image_is_described_by_what_is_around_it(patch_size: PatchSize) -> None:
    made = network(patch_size)
    plain, spotted = torch.full((1, 3, 160, 128), 0.5), torch.full((1, 3, 160, 128), 0.5)
    spotted[..., 80:84, 60:64] = 1
    with torch.no_grad():
        difference = (made.dense(plain, 4) - made.dense(spotted, 4)).square().sum(dim=1)[0]
    assert difference.shape == (40, 32)
    rows, columns = torch.nonzero(difference, as_tuple=True)
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    assert abs(middle[0] - 20) <= 1
    assert abs(middle[1] - 15) <= 1
