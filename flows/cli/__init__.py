"""The command line. Commands import what they need when they run, so that ``--help`` is quick."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stillwatch import __version__
from stillwatch.errors import StillwatchError
from stillwatch.flows.cli.console import fail, say
from stillwatch.flows.cli.decide import models, promotion, report
from stillwatch.flows.cli.inspection import export, inspect, label
from stillwatch.flows.cli.learn import add, data, detectors, retrain, validate
from stillwatch.flows.cli.options import (
    LEARN,
    CommandContext,
    UsageError,
    ensure_installed,
    ensure_profiles_readable,
)
from stillwatch.flows.cli.run import serve, services, watch
from stillwatch.flows.cli.start import demo, doctor, init
from stillwatch.machine.threads import set_thread_policy

_EDGE_COMMANDS = ("inspect", "sample")
"""What the extra ``edge`` is enough for; all other commands need the extra ``pipeline``."""

app = typer.Typer(
    name="stillwatch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "Visual inspection that learns from good parts only.\n\n"
        "Exit codes: **0** done, **1** something was refused or failed (the message says what to "
        "do), **2** wrong usage."
    ),
)
# In the order of the help, whose groups are ordered by their first command.
for module in (
    *(init, demo, doctor),
    *(add, validate, retrain, detectors),
    *(inspect, label, export),
    *(models, report, promotion),
    *(services, serve, watch),
):
    app.add_typer(module.app)
app.add_typer(data.app, name="data", rich_help_panel=LEARN)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"stillwatch {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    params: Annotated[
        Path, typer.Option(help="Settings file; the folders in it are relative to it.")
    ] = Path("params.yaml"),
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help="Show what Prefect, MLflow and DVC log, which otherwise goes to a file in the "
            "folder logs of the state folder.",
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Keep the settings file for the command, and refuse a command that is not installed."""
    if context.invoked_subcommand not in _EDGE_COMMANDS:
        ensure_installed("prefect")
        ensure_profiles_readable()
    context.obj = CommandContext(params, verbose=verbose)


def main() -> None:
    """Run the command line; a refusal is one sentence on stderr, and exit code 1 or 2."""
    set_thread_policy()
    try:
        sys.exit(app(standalone_mode=False))
    except StillwatchError as error:
        fail(str(error))
        sys.exit(1)
    except typer.Abort:
        sys.exit(1)
    except UsageError as error:
        _explain(error)
        sys.exit(2)


def _explain(error: Exception) -> None:
    """Print a sentence about wrong usage, except where Typer has printed the whole help."""
    given: Any = error
    message = given.format_message().replace("Value error, ", "").strip()  # pydantic's prefix
    if message:
        command = given.ctx.command_path if given.ctx else "stillwatch"
        fail(f"{message.rstrip('.')} (see '{command} --help')")
