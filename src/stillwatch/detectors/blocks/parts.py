"""Process the rows of a tensor in parts, to limit memory."""

from collections.abc import Sequence

import torch
from torch import Tensor


def parts(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Split ``rows`` into parts of ``size``; one part in a traced graph, which has no loops."""
    return (rows,) if torch.compiler.is_exporting() else torch.split(rows, size)
