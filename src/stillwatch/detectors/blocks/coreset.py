"""Greedy k-centre selection: a coreset that is near to every point.

Sener, Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR
2018, arXiv 1708.00489, algorithm 1, as PatchCore uses it.
"""

import torch
from torch import Tensor

_WORKING_SET = 4096
_BLOCK = 16384


def greedy_coreset(points: Tensor, size: int) -> Tensor:
    """Choose rows of ``points``, each the farthest from the rows chosen before.

    The choice is that of the textbook loop, which measures every point again after every choice.
    Distances to the chosen only ever shrink, so an old distance is an upper bound: while the
    farthest point of a working set is at least as far as every bound outside it, it is the
    farthest of all, and the points outside are measured later, against many choices in one product.

    Args:
        points: float32 (N, D).
        size: how many to choose, 1 to N. Fewer are returned when the others are all copies.

    Returns:
        int64 (size,) of distinct rows, in the order of choice, beginning with row 0.
    """
    norms = points.square().sum(dim=1)
    bounds = torch.full_like(norms, torch.inf)
    chosen = torch.zeros(1, dtype=torch.int64, device=points.device)
    measured = 0
    while True:
        _shrink(bounds, points, norms, chosen[measured:])
        bounds[chosen] = -torch.inf
        measured = len(chosen)
        if measured == size:
            return chosen
        fresh = _chosen_within_working_set(points, norms, bounds, size - measured)
        if len(fresh) == 0:
            return chosen
        chosen = torch.cat([chosen, fresh])


def _chosen_within_working_set(points: Tensor, norms: Tensor, bounds: Tensor, most: int) -> Tensor:
    """Choose until a point outside of the working set may be farther."""
    count = min(_WORKING_SET + 1, len(points))
    farthest, rows = bounds.topk(count)
    outside = farthest[-1] if count < len(points) else farthest.new_tensor(-torch.inf)
    inside = slice(None, _WORKING_SET)
    rows, distances = rows[inside], farthest[inside].clone()
    near, near_norms = points[rows], norms[rows]
    fresh: list[int] = []
    while len(fresh) < most:
        index = int(distances.argmax())
        # Points at distance 0 are copies of what is chosen.
        if distances[index] < outside or distances[index] <= 0:
            break
        fresh.append(index)
        to_new = near_norms - 2 * (near @ near[index]) + near_norms[index]
        torch.minimum(distances, to_new, out=distances)
        distances[index] = -torch.inf
    return rows[torch.tensor(fresh, dtype=torch.int64, device=rows.device)]


def _shrink(bounds: Tensor, points: Tensor, norms: Tensor, centres: Tensor) -> None:
    """Lower ``bounds`` to the squared distance to the nearest of ``centres``."""
    for start in range(0, len(points), _BLOCK):
        block = slice(start, start + _BLOCK)
        products = points[block] @ points[centres].T
        squared = norms[block, None] - 2 * products + norms[centres]
        torch.minimum(bounds[block], squared.amin(dim=1), out=bounds[block])
