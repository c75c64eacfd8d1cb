"""``stillwatch up``, ``status`` and ``down``: the services of this machine."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from stillwatch.flows.cli.console import console, print_json, print_table, say
from stillwatch.flows.cli.options import RUN, AsJson, CommandContext, PlantCommand
from stillwatch.tasks.tracking.pages import mlflow_page

if TYPE_CHECKING:  # it imports Prefect and MLflow, which takes seconds
    from stillwatch.flows.servers.up import ServiceStatus
    from stillwatch.tasks.training.progress import TrainingProgress

SIGNS = {"running": "green", "not answering": "red", "not running": "yellow"}


app = typer.Typer()


@app.command(
    cls=PlantCommand,
    rich_help_panel=RUN,
    epilog="Example: `stillwatch up`, then open the printed addresses",
)
def up(
    context: typer.Context,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground",
            help="Stay until a signal comes or a service ends; then stop what this started.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start an MLflow server, a Prefect server, a worker and a trigger; deploy `prefect.yaml`.

    Services that run already are left alone. The servers listen on loopback, unless `services.host`
    says otherwise, and run until `stillwatch down`.
    """
    from stillwatch.flows.servers.up import Services

    given: CommandContext = context.obj
    services = Services(given.settings, given.params)
    if foreground:
        services.run(lambda: _print(services.status(), as_json=as_json))
        return
    start = time.monotonic()
    services.up()
    _print(services.status(), as_json=as_json)
    if not as_json:
        say(f"ready after {time.monotonic() - start:.0f} s; 'stillwatch down' stops it")


@app.command(cls=PlantCommand, rich_help_panel=RUN, epilog="Example: `stillwatch status --json`")
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the services with their addresses, and the trainings that run now; change nothing.

    Exit code 1 when a service does not run.
    """
    from stillwatch.flows.servers.up import Services
    from stillwatch.tasks.training.progress import running_trainings

    given: CommandContext = context.obj
    services = Services(given.settings, given.params).status()
    trainings = running_trainings(given.settings.state_dir)
    if as_json:
        print_json(
            {
                "services": [asdict(service) for service in services],
                "trainings": [_as_dict(training) for training in trainings],
            }
        )
    else:
        _show(services)
        _show_trainings(trainings)
    if not all(service.state == "running" for service in services):
        raise typer.Exit(1)


@app.command(cls=PlantCommand, rich_help_panel=RUN, epilog="Example: `stillwatch down`")
def down(context: typer.Context) -> None:
    """Stop the services, also a Prefect server that another command started.

    Commands and flow runs that use it fail; the next retraining continues interrupted trainings.
    Nothing that is stored is changed.
    """
    from stillwatch.flows.servers.up import Services

    given: CommandContext = context.obj
    Services(given.settings, given.params).down()
    say("stopped")


def _print(services: Sequence["ServiceStatus"], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(service) for service in services])
    else:
        _show(services)


def _show(services: Sequence["ServiceStatus"]) -> None:
    # Lines and no table, which would cut the addresses to the width of the terminal.
    for service in services:
        state = Text(f"{service.name:9}")
        state.append(f"{service.state:15}", style=SIGNS[service.state])
        console.print(state.append(_page(service)), highlight=False, soft_wrap=True)
        if service.log:
            say(f"{'':9}log: {service.log}")


def _show_trainings(trainings: Sequence["TrainingProgress"]) -> None:
    if not trainings:
        say("no training runs now")
        return
    table = Table("category", "detector", "epoch", "time left")
    for one in trainings:
        table.add_row(one.category, one.detector, f"{one.epoch} of {one.epochs}", one.time_left)
    print_table(table)


def _as_dict(training: "TrainingProgress") -> dict[str, object]:
    """For JSON."""
    shown = ("category", "detector", "phase", "epoch", "epochs", "validation_loss", "seconds_left")
    return {name: getattr(training, name) for name in shown}


def _page(service: "ServiceStatus") -> str:
    """The address that a person opens."""
    if service.name == "MLflow" and service.url:
        return mlflow_page(service.url, "models")
    return service.url or ""
