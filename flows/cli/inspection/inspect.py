"""``stillwatch inspect``: inspect image files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track
from rich.table import Table
from rich.text import Text

from stillwatch.files import ensure_writable
from stillwatch.flows.cli.console import console, figure, print_json, print_table, say
from stillwatch.flows.cli.options import (
    INSPECT,
    AsJson,
    CommandContext,
    PlantCommand,
    Source,
    Version,
    ensure_installed,
)

if TYPE_CHECKING:  # it imports OpenCV and SciPy, which takes a second
    from stillwatch.inference.files import InspectionRow

COLOURS = {None: "red", "reject": "red", "review": "yellow", "pass": "green"}
"""Of the verdicts, the worst first; None: the file could not be inspected."""
_SHOWN = 20
"""Most images that are listed; the files of ``--out`` have all."""


app = typer.Typer()


@app.command(
    cls=PlantCommand,
    rich_help_panel=INSPECT,
    epilog="Example: `stillwatch inspect plate new/ --out results`",
)
def inspect(
    context: typer.Context,
    source: Source,
    paths: Annotated[list[Path], typer.Argument(help="Image files and folders of images.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for overlays, inspection.csv and inspection.json.")
    ] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Give each image a verdict, a score and a p-value, and log them.

    Exit code 1 when a file could not be inspected; the others still are.
    """
    from stillwatch.flows.models import names_folder, open_model
    from stillwatch.inference.files import inspect_files, write_rows
    from stillwatch.inference.inspector import ensure_one_readable, find_images

    given: CommandContext = context.obj
    files = find_images(paths)
    ensure_one_readable(files)
    if out is not None:
        ensure_writable(out)
    in_folder = version is None and names_folder(source)
    if not in_folder:
        ensure_installed("mlflow")
    opened = open_model(source, given.settings, version)
    if opened.bundle.info.graph is None:
        ensure_installed("torch")
    info = opened.bundle.info
    own = given.settings.for_category(info.category)
    rows = list(
        track(
            inspect_files(opened, files, settings=own, out=out),
            description="inspecting",
            total=len(files),
            console=console,
            disable=as_json,
            transient=True,
        )
    )
    if out is not None:
        write_rows(rows, out)
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        _list_worst(rows)
        reject = info.calibration.reject
        say(
            f"rejected above {reject.value:.4f}: on average at most {100 * reject.alpha:g} % of "
            f"good parts, calibrated on {reject.n} of them"
        )
        registered = f"version {opened.version} of {info.category}"
        _say_counts(rows, f"the bundle {source}" if in_folder else registered)
        if out is None:
            say("pictures: add --out FOLDER, which also gets a table of all images")
        else:
            say(f"pictures: {out}, with all images in inspection.csv")
    if any(row.error for row in rows):
        raise typer.Exit(1)


def _list_worst(rows: Sequence["InspectionRow"]) -> None:
    worst = sorted(rows, key=lambda row: (list(COLOURS).index(row.verdict), -(row.score or 0.0)))
    table = Table("verdict", "score", "p-value", "image")
    for row in worst[:_SHOWN]:
        verdict = Text(row.verdict or "error", style=COLOURS[row.verdict])
        table.add_row(verdict, figure(row.score, 4), figure(row.p_value), row.error or row.path)
    print_table(table)
    if worst[_SHOWN:]:
        say(f"and {len(worst) - _SHOWN} more, none of them worse")


def _say_counts(rows: Sequence["InspectionRow"], detector: str) -> None:
    counts = Counter(row.verdict for row in rows)
    listed = ", ".join(f"{counts[name]} {name}" for name in ("pass", "review", "reject"))
    failed = f", {counts[None]} not inspected" if counts[None] else ""
    say(f"{len(rows) - counts[None]} inspected by {detector}: {listed}{failed}")
