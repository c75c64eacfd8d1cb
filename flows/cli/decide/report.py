"""``stillwatch report``: write the HTML report of a retraining."""

from pathlib import Path
from typing import Annotated

import typer

from stillwatch.files import ensure_writable
from stillwatch.flows.cli.console import say
from stillwatch.flows.cli.options import DECIDE, CommandContext, PlantCommand

app = typer.Typer()


@app.command(
    cls=PlantCommand,
    rich_help_panel=DECIDE,
    epilog="Example: `stillwatch report plate --out plate.html`",
)
def report(
    context: typer.Context,
    category: Annotated[str, typer.Argument(help="The product line.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    version: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="that of the newest retraining",
            help="The retraining that ended with this version.",
        ),
    ] = None,
) -> None:
    """Write the report of a retraining as one HTML file that needs no server and no network.

    The report is made from the present contents of MLflow.
    """
    from stillwatch.tasks.registry.versions import ensure_known, registered_version
    from stillwatch.tasks.tracking.client import open_tracking

    given: CommandContext = context.obj
    ensure_writable(out.absolute().parent)
    tracking = open_tracking(given.settings)
    ensure_known(category, tracking.categories())
    if version is not None:
        registered_version(tracking, category, version)

    # It imports torch and matplotlib, which takes seconds.
    from stillwatch.tasks.reports.task import write_report

    write_report(category, out, version=version, settings=given.settings)
    say(f"report: {out}")
