"""``stillwatch ui``: the MLflow and Prefect pages over the local stores."""

import signal
from contextlib import suppress

import typer

from flows.cli.console import say
from flows.cli.options import CommandContext


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: `stillwatch ui`, then open the printed addresses")(ui)


def ui(context: typer.Context) -> None:
    """Show runs, models and pictures in the browser, on loopback, until Ctrl-C."""
    from flows.mlflow_server import mlflow_pages
    from flows.prefect_server import prefect_api
    from tasks.tracking import open_tracking

    given: CommandContext = context.obj
    settings = given.settings
    with prefect_api(settings.state_dir) as api:
        tracking = open_tracking(settings)
        if tracking.artifacts is None:
            _show(api, tracking.uri)
            return
        with mlflow_pages(tracking.uri, tracking.artifacts, settings.state_dir) as mlflow_address:
            _show(api, mlflow_address)


def _show(api: str, mlflow_address: str) -> None:
    say(f"MLflow   {mlflow_address}   models, runs, figures, pictures")
    say(f"Prefect  {api.removesuffix('/api')}   flow runs, tasks, tables")
    say("Ctrl-C stops both.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        signal.pause()
