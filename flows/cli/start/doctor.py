"""``stillwatch doctor``: what this machine has and lacks."""

from dataclasses import asdict

import typer
from rich.table import Table

from stillwatch.flows.cli.console import console, print_json
from stillwatch.flows.cli.options import AsJson, CommandContext

SIGNS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: `stillwatch doctor --json`")(doctor)


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Say what this machine has and lacks: versions, devices, weights, disk, servers.

    Exit code 1 when something is missing without which nothing can run.
    """
    from stillwatch.flows.doctor import examine_machine

    given: CommandContext = context.obj
    findings = examine_machine(given.settings)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        table = Table("", "what", "found", show_header=False)
        for finding in findings:
            table.add_row(SIGNS[finding.state], finding.what, finding.detail)
        console.print(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
