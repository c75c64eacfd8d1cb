"""Disturbed features: one window, turned and shifted, in the same place at every level."""

import torch

from stillwatch.detectors.blocks.disturbance import disturbed

IMAGES = 64
SIDES = (64, 32, 16)


def positions(side: int) -> torch.Tensor:
    """Each position's own coordinates, from -1 to 1: (IMAGES, 2, side, side)."""
    steps = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y]).expand(IMAGES, 2, side, side)


def test_a_window_is_moved_and_the_rest_is_left_alone() -> None:
    torch.manual_seed(0)
    before = positions(64)
    (after,) = disturbed([before])
    moved = (after != before).any(dim=1)
    shares = moved.float().mean(dim=(1, 2))
    assert (shares > 0.002).all()
    assert (shares < 0.17).all(), "at most 0.4 times 0.4 of the image"
    for image in moved:
        rows, columns = image.any(dim=1), image.any(dim=0)
        height, width = int(rows.sum()), int(columns.sum())
        # Positions that the turn maps onto themselves do not look moved.
        assert int(image.sum()) >= 0.95 * height * width
        assert max(height, width) <= 0.42 * 64
    distances = (after - before).norm(dim=1)
    assert distances.max() < 2**0.5 * (0.1 + 0.4 * 0.6), "shifted, and turned by 0.6 rad at most"


def test_levels_are_disturbed_alike() -> None:
    torch.manual_seed(1)
    fine, middle, coarse = disturbed([positions(side) for side in SIDES])
    for level, factor in ((middle, 2), (coarse, 4)):
        averaged = torch.nn.functional.avg_pool2d(fine, factor)
        differences = (averaged - level).norm(dim=1)
        # They differ only where a coarse position lies across the window's edge.
        assert (differences > 0.02).float().mean() < 0.05


def test_random_numbers_are_torchs_own() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(2)
        results.append(disturbed([positions(16)])[0])
    assert torch.equal(*results)
