"""Distances between feature maps, their averages, the Gaussian filter, and long maps in parts."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_EASY_GRADIENT = 0.1


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of the channel vectors at each position: (B, C, h, w) twice -> float32 (B, h, w).

    In [0, 2].
    """
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=1)


def normalised_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of the l2-normalised channel vectors: (B, C, h, w) twice -> (B, h, w).

    float32 in [0, 4]. Equals 2 - 2 cos, without its cancellation where a and b nearly agree.
    """
    return (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(dim=1)


def cosine_map(a: Tensor, b: Tensor) -> Tensor:
    """``cosine_distance`` without its cancellation, so that a map's small values are right."""
    return normalised_distance(a, b) / 2


def flattened_cosine_loss(teacher: Iterable[Tensor], student: Iterable[Tensor]) -> Tensor:
    """Sum over levels of the batch mean of 1 - cos, each image's whole map being one vector."""
    return torch.stack(
        [
            (1 - F.cosine_similarity(a.float().flatten(1), b.float().flatten(1))).mean()
            for a, b in zip(teacher, student, strict=True)
        ]
    ).sum()


def position_cosine_loss(teacher: Iterable[Tensor], student: Iterable[Tensor]) -> Tensor:
    """Sum over levels of the mean over batch and positions of 1 - cos of the channel vectors."""
    return torch.stack(
        [cosine_distance(a, b).mean() for a, b in zip(teacher, student, strict=True)]
    ).sum()


def mined_share(easy_share: float, progress: float, rise: float) -> float:
    """Share of the positions with less gradient: from 0 linearly up to ``easy_share``.

    Args:
        easy_share: the final share, in [0, 1).
        progress: of the training, in [0, 1].
        rise: share of the training after which the final share is reached, in (0, 1].
    """
    return easy_share * min(1.0, progress / rise)


def with_mined_gradient(teacher: Tensor, student: Tensor, easy_share: float) -> Tensor:
    """``student`` with a tenth of the gradient at the positions where it is most like the teacher.

    Guo, Lu, Jia, Zhang, Li, "ReContrast", NeurIPS 2023, arXiv 2306.02602, section 3.4, with a share
    in place of a threshold as in the authors' later Dinomaly, arXiv 2405.14325, section 3.4.

    Args:
        teacher: float (B, C, h, w).
        student: the same shape; its values are returned as they are.
        easy_share: of the batch's positions, in [0, 1).
    """
    easy_count = int(easy_share * teacher[:, 0].numel())
    if easy_count == 0:
        return student
    values = student.detach()
    distances = cosine_distance(teacher, values)
    easy = distances <= distances.flatten().kthvalue(easy_count).values
    return values + torch.where(easy, _EASY_GRADIENT, 1.0)[:, None] * (student - values)


def joined_neighbourhoods(fine: Tensor, coarse: Tensor) -> Tensor:
    """Both levels averaged over 3×3 neighbourhoods, the coarser one resized to the finer, joined.

    Roth et al., "PatchCore", CVPR 2022, section 3.1: (B, C, h, w) and (B, D, h', w') to
    (B, C + D, h, w).
    """
    fine, coarse = (F.avg_pool2d(level, 3, stride=1, padding=1) for level in (fine, coarse))
    coarse = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([fine, coarse], dim=1)


def averaged(maps: Tensor, stride: int) -> Tensor:
    """Mean over squares of ``stride`` positions: (B, H, W) -> (B, H / stride, W / stride)."""
    return F.avg_pool2d(maps[:, None], stride)[:, 0]


def parts(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Split ``rows`` into parts of ``size``, to limit memory.

    One part in a traced graph, which has no loops.
    """
    return (rows,) if torch.compiler.is_exporting() else torch.split(rows, size)


def gaussian_filter(maps: Tensor, sigma: float) -> Callable[[Tensor], Tensor]:
    """A Gaussian filter of maps (B, h, w) with the shape, type and device of these.

    As ``scipy.ndimage.gaussian_filter`` with its defaults: the kernel ends at 4 sigma, and the map
    is mirrored at its edges, edge pixels repeated.
    """
    rows = _smoothing_matrix(maps.shape[1], sigma).to(maps)
    columns = _smoothing_matrix(maps.shape[2], sigma).to(maps)
    return lambda x: rows @ x @ columns.T


def _smoothing_matrix(length: int, sigma: float) -> Tensor:
    """The filter with mirrored edges as a (length, length) matrix whose rows sum to 1.

    On maps of our sizes a product with it is faster than a convolution with one channel, and maps
    smaller than the kernel need no case of their own.
    """
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    positions = (torch.arange(length)[:, None] + offsets) % (2 * length)
    mirrored = torch.minimum(positions, 2 * length - 1 - positions)
    weights = (kernel / kernel.sum()).expand(length, -1)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(1, mirrored, weights)
