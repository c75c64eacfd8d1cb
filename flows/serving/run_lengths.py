"""Masks as short lists of numbers, in COCO's uncompressed run-length encoding."""

import numpy as np
from numpy.typing import NDArray


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of equal pixels, column by column, the first of them of unset pixels.

    COCO's ``counts`` (Lin et al., ECCV 2014; pycocotools ``frPyObjects`` reads it together with
    ``size``, height and width).

    Args:
        mask: bool (H, W).

    Returns:
        Pixel counts that add up to H · W; the first is 0 where the first pixel is set.
    """
    columns = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(columns, prepend=False))
    lengths: list[int] = np.diff(starts, prepend=0, append=columns.size).tolist()
    return lengths
