"""``stillwatch inspect``: inspect image files."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from stillwatch.flows.cli.console import console, figure, print_json, say
from stillwatch.flows.cli.options import (
    INSPECT,
    AsJson,
    CommandContext,
    PlantCommand,
    ensure_installed,
)

COLOURS = {"pass": "green", "review": "yellow", "reject": "red", None: "red"}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        cls=PlantCommand,
        rich_help_panel=INSPECT,
        epilog="Example: `stillwatch inspect models:/stillwatch-plate@champion new/ --out results`",
    )(inspect)


def inspect(
    context: typer.Context,
    bundle: Annotated[
        str,
        typer.Argument(
            help="A bundle folder, exported or not, models:/NAME/VERSION or models:/NAME@ALIAS."
        ),
    ],
    paths: Annotated[list[Path], typer.Argument(help="Image files and folders of images.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for overlays, inspection.csv and inspection.json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give each image a verdict, a score and a p-value, and log them.

    Exit code 1 when a file could not be inspected; the others still are.
    """
    from stillwatch.flows.models import REGISTRY_SCHEME, open_model
    from stillwatch.inference.files import inspect_files, write_rows
    from stillwatch.inference.inspector import find_images

    given: CommandContext = context.obj
    files = find_images(paths)
    if bundle.startswith(REGISTRY_SCHEME):
        ensure_installed("mlflow")
    opened = open_model(bundle, given.settings)
    if opened.bundle.info.graph is None:
        ensure_installed("torch")
    own = given.settings.for_category(opened.bundle.info.category)
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
        table = Table("verdict", "score", "p-value", "image")
        for row in rows:
            verdict = f"[{COLOURS[row.verdict]}]{row.verdict or 'error'}[/]"
            table.add_row(verdict, figure(row.score, 4), figure(row.p_value), row.error or row.path)
        console.print(table)
        reject = opened.bundle.info.calibration.reject
        say(
            f"rejected above {reject.value:.4f}: about {reject.alpha:.0%} of good parts at most, "
            f"calibrated on {reject.n} of them"
        )
    if any(row.error for row in rows):
        raise typer.Exit(1)
