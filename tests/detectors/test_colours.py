"""Changed colours and light."""

import torch

from stillwatch.detectors.colours import greyed, in_other_light


def test_other_light_changes_an_image_by_a_fifth_at_most() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8)
    changed = [in_other_light(images) for _ in range(20)]
    largest = torch.stack([(one - images).abs().max() for one in changed])
    assert largest.min() > 0
    assert largest.max() <= 0.2


def test_greyed() -> None:
    images = torch.rand(4, 3, 2, 2)
    assert torch.equal(greyed(images, 0.0), images)
    grey = greyed(images, 1.0)
    assert torch.equal(grey[:, 0], grey[:, 2])
