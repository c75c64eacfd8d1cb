import torch

from stillwatch.detectors.blocks.augmentations import greyed, in_other_light, random_windows


def test_other_light_changes_an_image_by_a_fifth_at_most() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8)
    changed = [in_other_light(images, 0.2) for _ in range(20)]
    largest = torch.stack([(one - images).abs().max() for one in changed])
    assert largest.min() > 0
    assert largest.max() <= 0.2


def test_augmentations_draw_from_torchs_seeded_generator() -> None:
    images = torch.rand(3, 3, 12, 12)
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append((in_other_light(images, 0.5), random_windows(images, 5)))
    for first, again in zip(*drawn, strict=True):
        assert torch.equal(first, again)


def test_greyed() -> None:
    images = torch.rand(4, 3, 2, 2)
    assert torch.equal(greyed(images, 0.0), images)
    grey = greyed(images, 1.0)
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_windows_are_parts_of_their_images() -> None:
    torch.manual_seed(0)
    images = torch.arange(2 * 10 * 12.0).view(2, 1, 10, 12)
    windows = random_windows(images, 4)
    assert windows.shape == (2, 1, 4, 4)
    for image, window in zip(images, windows, strict=True):
        corner = window[0, 0, 0]
        row, column = (int(x) for x in torch.nonzero(image[0] == corner)[0])
        assert torch.equal(window, image[:, row : row + 4, column : column + 4])
