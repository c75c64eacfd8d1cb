"""Write and read the score and verdict of each test image, a table in the MLflow run."""

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
    """Write the table into a folder, whose files are uploaded to the run."""
    pq.write_table(pa.Table.from_pylist(list(map(dict, rows))), folder / SCORES_FILE)


def read_scores(tracking: Tracking, run_id: str) -> "list[ImageRow]":
    """Read the table from a run."""
    with tracking.artifact(run_id, SCORES_FILE) as path:
        rows: list[ImageRow] = pq.read_table(path).to_pylist()
    return rows
