"""``stillwatch up``, ``status`` and ``down``: the services of this machine."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from stillwatch.flows.cli.console import console, print_json, say
from stillwatch.flows.cli.options import RUN, AsJson, CommandContext, PlantCommand
from stillwatch.tasks.tracking.pages import mlflow_page

if TYPE_CHECKING:  # it imports Prefect and MLflow, which takes seconds
    from stillwatch.flows.servers.up import Services, ServiceStatus

SIGNS = {"running": "green", "not answering": "red", "not running": "yellow"}


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        cls=PlantCommand,
        rich_help_panel=RUN,
        epilog="Example: `stillwatch up`, then open the printed addresses",
    )(up)
    app.command(
        cls=PlantCommand, rich_help_panel=RUN, epilog="Example: `stillwatch status --json`"
    )(status)
    app.command(cls=PlantCommand, rich_help_panel=RUN, epilog="Example: `stillwatch down`")(down)


def up(
    context: typer.Context,
    foreground: Annotated[
        bool,
        typer.Option("--foreground", help="Stay until a signal comes or a service ends."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start an MLflow server, a Prefect server and a worker, and deploy `prefect.yaml`.

    Services that run already are left alone. The servers listen on loopback, unless `services.host`
    says otherwise, and run until `stillwatch down`.
    """
    from stillwatch.flows.servers.up import Services

    given: CommandContext = context.obj
    services = Services(given.settings, given.params)
    if foreground:
        services.run(lambda: _show(services, as_json=as_json))
        return
    start = time.monotonic()
    services.up()
    _show(services, as_json=as_json)
    if not as_json:
        say(f"ready after {time.monotonic() - start:.0f} s; 'stillwatch down' stops it")


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show which services run and their addresses; change nothing.

    Exit code 1 when a service does not run.
    """
    from stillwatch.flows.servers.up import Services

    given: CommandContext = context.obj
    if not _show(Services(given.settings, given.params), as_json=as_json):
        raise typer.Exit(1)


def down(context: typer.Context) -> None:
    """Stop the services, also a Prefect server that another command started.

    Commands and flow runs that use it fail; the next retraining continues interrupted trainings.
    Nothing that is stored is changed.
    """
    from stillwatch.flows.servers.up import Services

    given: CommandContext = context.obj
    Services(given.settings, given.params).down()
    say("stopped")


def _show(services: "Services", *, as_json: bool) -> bool:
    """Print the status; return whether every service runs."""
    found = services.status()
    if as_json:
        print_json([asdict(service) for service in found])
    else:
        table = Table("service", "state", "address", "log")
        for service in found:
            state = f"[{SIGNS[service.state]}]{service.state}[/]"
            table.add_row(service.name, state, _page(service), service.log or "")
        console.print(table)
    return all(service.state == "running" for service in found)


def _page(service: "ServiceStatus") -> str:
    """The address that a person opens."""
    if service.name == "MLflow" and service.url:
        return mlflow_page(service.url, "models")
    return service.url or ""
