"""Rows a part at a time, where all at once would fill the memory."""

from collections.abc import Sequence

import torch
from torch import Tensor


def parts(rows: Tensor, size: int) -> Sequence[Tensor]:
    """``rows``, ``size`` at a time; all of them where a graph is traced, which has no loops."""
    return (rows,) if torch.compiler.is_exporting() else torch.split(rows, size)
