"""What an evaluation said of each test image: a table in its MLflow run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from stillwatch.tasks.tracking.client import Tracking

if TYPE_CHECKING:
    from stillwatch.evaluation.evaluation import ImageRow

SCORES_FILE = "scores.parquet"


def write_scores(folder: Path, rows: "Sequence[ImageRow]") -> None:
    """Write the table into the folder that becomes the run's evidence."""
    pq.write_table(pa.Table.from_pylist(list(map(dict, rows))), folder / SCORES_FILE)


def read_scores(tracking: Tracking, run_id: str) -> "list[ImageRow]":
    """Read the per-image table that an evaluation stored in its run.

    Raises:
        TrackingError: the run holds none.
    """
    with tracking.artifact(run_id, SCORES_FILE) as path:
        rows: list[ImageRow] = pq.read_table(path).to_pylist()
    return rows
