"""Cells as Markdown."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cells import Cell
from benchmarks.revision import short_commit


def origin(command: str, cells: Sequence[Cell]) -> str:
    """One line: which command, code and machines made the cells."""
    commits = sorted({short_commit(cell["commit"]) for cell in cells})
    machines = sorted({cell["machine"] for cell in cells})
    return f"`{command}`, commit {', '.join(commits)}, {'; '.join(machines)}."


def mean_and_spread(values: Sequence[float | None], form: str) -> str:
    """Mean ± half the distance from the lowest to the highest, of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = format(statistics.mean(known), form)
    return mean if len(known) == 1 else f"{mean} ± {format((max(known) - min(known)) / 2, form)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def publish(text: str, page: Path | None) -> None:
    """Write tables to a page, or print them if there is none."""
    if page is None:
        print(text)
    else:
        page.write_text(text, encoding="utf-8")
