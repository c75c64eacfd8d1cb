"""Disturb what a student sees, so that the student learns the normal features.

A decoder that learns to reconstruct a few hundred normals also learns to reconstruct anomalies. A
decoder that must reconstruct normal features from disturbed ones does not. Others disturb features
by noise (You et al., UniAD, NeurIPS 2022, section 3.3), or images, by noise (Tien et al., RD++,
CVPR 2023) or synthetic defects (Zhang et al., DeSTSeg, CVPR 2023).

``disturbed`` turns and shifts a window of the features, which is our own and needs no second pass
of the teacher. It is not done by torchvision, whose transforms of a batch are the same for all
images and mirror no edges.

``with_defects`` adds synthetic defects to images. They are of another family than those of
``stillwatch.sample.synthetic``, which stand in for missing test anomalies: a network that had
trained on the same family would look better than it is. There, defects are made of normals: a
rectangle of the image pasted elsewhere, or a recoloured normal where Perlin noise is high. Here, no
pixel comes from a normal: ellipses with ragged edges, and bands in them, are filled with generated
textures or with photographs.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_LARGEST_TURN = 0.6
"""In radians, in both directions."""
_LARGEST_SHIFT = 0.05
"""Share of the side of the image, in both directions."""
_WINDOW_SIDES = (0.1, 0.4)
"""Shares of the side of the image."""

_OPACITIES = (0.15, 1.0)
_MOST_ELLIPSES = 2
"""Ellipses of a defect."""
_RADII = (0.02, 0.3)
"""Shares of the longer side of the image."""
_RAGGEDNESS = 0.4
"""Share of its radius by which the edge of an ellipse moves, per unit of noise."""
_BAND_SHARE = 1 / 3
"""Probability that an ellipse shows bands only."""
_BAND_WIDTHS = (0.05, 0.3)
"""Largest absolute value of the noise in a band."""
_MOST_CELLS = {"edge": 32, "texture": 128}
"""Cells of the noise along a side of the image."""
_LARGEST_CONTRAST = 0.5
"""Of a generated texture: levels per unit of noise."""
_GREY = 1 / 512
"""Difference of the channels below which an image of 8 bits has no colours."""


def disturbed(features: list[Tensor]) -> list[Tensor]:
    """Turn and shift a random window of each image, in the same way at all levels.

    The window shows another part of the same image, mirrored at its edges. Random numbers come
    from torch's global generator.

    Args:
        features: float (B, C_l, h_l, w_l) per level.

    Returns:
        As ``features``.
    """
    count = len(features[0])
    low, high = _WINDOW_SIDES
    # In the coordinates of torch's grids the image reaches from -1 to 1.
    middle = 1.6 * torch.rand(count, 2) - 0.8
    halves = low + (high - low) * torch.rand(count, 2)
    transform = _turned_around(
        middle,
        angle=_LARGEST_TURN * _either_way(count),
        shift=2 * _LARGEST_SHIFT * _either_way(count, 2),
    )
    return [_in_window(level, transform, middle, halves) for level in features]


def _either_way(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape) - 1


def _turned_around(middle: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """Affine transforms (B, 2, 3) from the window to the place that it shows."""
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack(
        [torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1
    )
    offset = middle - (turn @ middle[:, :, None]).squeeze(2) + shift
    return torch.cat([turn, offset[:, :, None]], dim=2)


def _in_window(level: Tensor, transform: Tensor, middle: Tensor, halves: Tensor) -> Tensor:
    shape = list(level.shape)
    unmoved = torch.eye(2, 3).expand(len(level), 2, 3)
    here = F.affine_grid(unmoved, shape, align_corners=False)
    inside = ((here - middle[:, None, None]).abs() < halves[:, None, None]).all(dim=3)
    grid = F.affine_grid(transform, shape, align_corners=False).to(level)
    moved = F.grid_sample(level, grid, padding_mode="reflection", align_corners=False)
    return torch.where(inside[:, None].to(level.device), moved, level)


def with_defects(images: Tensor, textures: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Add a synthetic defect to each image.

    With m the mask, A the texture and b an opacity drawn from [0.15, 1] for each image,

        defective image = (1 - m) image + m ((1 - b) image + b A)

    as in DeSTSeg, section 3.1; the shape of m is our own. Random numbers come from torch's global
    generator.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        textures: of the same shape, which fill the defects; None: generated ones. A grey image
            gets a grey texture.

    Returns:
        The defective images, and their masks: bool (B, 1, H, W), which may be empty.
    """
    height, width = images.shape[2:]
    masks = torch.stack([_defect(height, width) for _ in images]).to(images.device)
    if textures is None:
        textures = torch.stack([_texture(height, width) for _ in images]).to(images)
    spread = images.amax(dim=1, keepdim=True) - images.amin(dim=1, keepdim=True)
    is_grey = spread.amax(dim=(2, 3), keepdim=True) < _GREY
    textures = torch.where(is_grey, textures.mean(dim=1, keepdim=True), textures)
    opacities = _between(*_OPACITIES, len(images), 1, 1, 1).to(images)
    return torch.where(masks, images.lerp(textures, opacities), images), masks


def _defect(height: int, width: int) -> Tensor:
    """The union of one or two ellipses: bool (1, H, W)."""
    count = int(torch.randint(1, _MOST_ELLIPSES + 1, ()))
    return torch.stack([_ellipse(height, width) for _ in range(count)]).any(dim=0)


def _ellipse(height: int, width: int) -> Tensor:
    """A turned ellipse with ragged edges, or bands in it: bool (1, H, W)."""
    longer = max(height, width)
    down, right = ((torch.arange(n) + 0.5 - n * torch.rand(())) / longer for n in (height, width))
    angle = math.pi * torch.rand(())
    smallest, largest = map(math.log, _RADII)
    radii = _between(smallest, largest, 2).exp()
    along = (right * angle.cos() + down[:, None] * angle.sin()) / radii[0]
    across = (down[:, None] * angle.cos() - right * angle.sin()) / radii[1]
    noise = _noise(height, width, _MOST_CELLS["edge"])
    inside = (along.square() + across.square()).sqrt() + _RAGGEDNESS * noise < 1
    if torch.rand(()) < _BAND_SHARE:
        inside &= noise.abs() < _between(*_BAND_WIDTHS)
    return inside


def _texture(height: int, width: int) -> Tensor:
    """Noise between two colours, from flat to grained, striped or blotched: (3, H, W) in [0, 1]."""
    colour, contrast = torch.rand(3, 1, 1), _LARGEST_CONTRAST * _either_way(3, 1, 1)
    return (colour + contrast * _noise(height, width, _MOST_CELLS["texture"])).clamp(0, 1)


def _noise(height: int, width: int, most_cells: int) -> Tensor:
    """Normal values on a random grid, between them bicubic: (1, H, W)."""
    rows, columns = (2 ** int(torch.randint(1, most_cells.bit_length(), ())) for _ in range(2))
    grid = torch.randn(1, 1, rows + 1, columns + 1)
    return F.interpolate(grid, (height, width), mode="bicubic", align_corners=True)[0]


def _between(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape)
