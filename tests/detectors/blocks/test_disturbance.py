"""Disturbed features, and images with synthetic defects."""

import torch

from stillwatch.detectors.blocks.disturbance import disturbed, with_defects

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


def test_a_defect_is_the_texture_at_one_opacity_inside_the_mask() -> None:
    torch.manual_seed(3)
    images, textures = torch.full((40, 3, 64, 96), 0.2), torch.full((40, 3, 64, 96), 0.7)
    defective, masks = with_defects(images, textures)
    assert masks.shape == (40, 1, 64, 96)
    opacities = (defective - images) / (textures - images)
    assert opacities[~masks.expand_as(images)].abs().max() == 0
    found = [one[mask.expand_as(one)] for one, mask in zip(opacities, masks, strict=True)]
    spreads = [float(values.max() - values.min()) for values in found if len(values)]
    assert len(spreads) >= 35
    assert max(spreads) < 1e-5
    lowest, highest = (pick(v.mean() for v in found if len(v)) for pick in (min, max))
    assert 0.15 <= lowest < 0.3
    assert 0.8 < highest <= 1


def test_defects_are_large_and_small_and_anywhere() -> None:
    torch.manual_seed(4)
    _, masks = with_defects(torch.full((200, 3, 64, 64), 0.5))
    shares = masks.float().mean(dim=(1, 2, 3))
    assert shares.max() < 0.6
    assert shares.quantile(0.2) < 0.02
    assert shares.quantile(0.8) > 0.04
    often = torch.nn.functional.avg_pool2d(masks.float().mean(dim=0), 8)
    assert often.min() > 0


def test_a_grey_image_gets_a_grey_defect_and_a_coloured_one_a_coloured() -> None:
    torch.manual_seed(5)
    images = torch.rand(20, 1, 32, 32).repeat(1, 3, 1, 1)
    images[10:, 0] = 0
    defective, masks = with_defects(images)
    changed = (defective != images).any(dim=1, keepdim=True)
    assert not changed[~masks].any()
    assert changed[masks].float().mean() > 0.99
    grey, coloured = (defective[part] for part in (slice(10), slice(10, None)))
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    reds = coloured[:, 0][masks[10:, 0]]
    assert (reds > 0).float().mean() > 0.5


def test_the_same_seed_makes_the_same_defects() -> None:
    images = torch.rand(4, 3, 32, 32)
    made = []
    for _ in range(2):
        torch.manual_seed(6)
        made.append(with_defects(images))
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])
