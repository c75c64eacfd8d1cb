"""``stillwatch models``: list the registered versions."""

from dataclasses import asdict

import typer
from rich import box
from rich.table import Table

from stillwatch.flows.cli.console import figure, print_json, print_table, say
from stillwatch.flows.cli.options import DECIDE, AsJson, CommandContext, ShortCommand

app = typer.Typer()


@app.command(cls=ShortCommand, rich_help_panel=DECIDE, epilog="Example: `stillwatch models --json`")
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the registered versions of every category, newest first."""
    from stillwatch.tasks.registry.versions import category_of, registered_versions
    from stillwatch.tasks.tracking.client import open_tracking

    given: CommandContext = context.obj
    versions = registered_versions(open_tracking(given.settings))
    if as_json:
        print_json([asdict(version) for version in versions])
        return
    if not versions:
        say("nothing is registered yet; `stillwatch retrain` registers the winner per category")
        return
    # Two words take two lines, so that it fits 80 columns.
    headings = ("category", "ver-\nsion", "alias", "detector", "image\nAUROC", "data", "registered")
    table = Table(*headings, box=box.SIMPLE_HEAD, padding=0)
    for version in versions:
        table.add_row(
            category_of(version.name),
            str(version.version),
            "\n".join([*version.aliases, *(["pending"] if version.approval == "pending" else [])])
            or "–",
            version.detector,
            figure(version.image_auroc) + (" synthetic" if version.synthetic else ""),
            version.data_version[:8],
            version.created[:10],
        )
    print_table(table)
