"""What several commands share: options, the settings, the groups of the help."""

import gc
import logging
import os
import tomllib
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from stillwatch.errors import ServerError, StillwatchError
from stillwatch.flows.cli.command_log import command_log
from stillwatch.flows.cli.console import fail, say
from stillwatch.machine.threads import set_thread_policy
from stillwatch.settings import Settings, load_settings

UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])
"""Wrong usage. Typer exports this class as the base of ``BadParameter`` only."""
_log = logging.getLogger(__name__)

START, LEARN, INSPECT, DECIDE, RUN = "Start", "Learn", "Inspect", "Decide", "Run"
"""The groups of commands in the help, in their order."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Source = Annotated[
    str,
    typer.Argument(
        metavar="CATEGORY",
        help="A product line, whose champion is used; or models:/NAME/VERSION, models:/NAME@ALIAS, "
        "or a bundle folder. A name with a slash, and a folder that holds bundle.json, is taken "
        "for a folder: so ./screw is a folder in any case.",
    ),
]
Version = Annotated[
    int | None, typer.Option(min=1, show_default="the champion", help="Of the product line.")
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Image set in MVTec layout outside the plant, for a look: it is imported and never "
        "written to; inbox, schedules and forms do not know it.",
        show_default="the workspace's image set",
    ),
]


def say_what_a_root_is(root: Path | None) -> None:
    """Say in one line what ``--root`` does not do; nothing where it is not given."""
    if root is not None:
        say(
            f"--root {root} is a look: the images are imported, and the inbox, schedules and forms "
            "do not know them. `stillwatch add` adds images to the plant."
        )


Categories = Annotated[
    list[str] | None,
    typer.Option("--category", help="Repeat for several.", show_default="all"),
]


def ensure_installed(package: str) -> None:
    """Refuse a command that needs a package which the extra ``edge`` does not install.

    Raises:
        StillwatchError: the package is not installed.
    """
    if find_spec(package) is None:
        raise StillwatchError(
            f"this needs the package '{package}', which is not installed. The extra 'edge' "
            "inspects exported bundles only; install the rest: pip install "
            "'stillwatch[pipeline]'."
        )


def ensure_profiles_readable() -> None:
    """Refuse a damaged file of Prefect's profiles, at which Prefect's import would fail.

    Raises:
        ServerError: the file is there and cannot be read.
    """
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect"))
    file = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()
    try:
        tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ServerError(
            f"{file}: Prefect's profiles cannot be read ({error}). Correct the file or move it "
            "away."
        ) from error


class CommandContext:
    """The global options; the first use of ``settings`` reads the settings file."""

    def __init__(self, params: Path, *, verbose: bool = False) -> None:
        self.params = params
        self.verbose = verbose

    @cached_property
    def settings(self) -> Settings:
        """The settings; ``runtime.threads`` is in effect from here on.

        Raises:
            SettingsError: see ``load_settings``.
        """
        settings = load_settings(self.params)
        set_thread_policy(settings.runtime.threads)
        return settings


class PlantCommand(TyperCommand):
    """A command that reads the settings first, and logs to a file of the state folder.

    Outside a plant it is refused at once, before it imports Prefect, MLflow or torch.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it raises is one sentence in the terminal.

        Raises:
            SettingsError: as ``load_settings``.
        """
        given: CommandContext = ctx.obj
        settings = given.settings
        if given.verbose:
            return super().invoke(ctx)
        with command_log(settings.state_dir, ctx.info_name):
            try:
                return super().invoke(ctx)
            except StillwatchError as error:
                fail(str(error))
            except (typer.Exit, typer.Abort, BrokenPipeError, UsageError):
                raise
            except Exception as error:
                _log.exception("unexpected error")
                fail(
                    f"unexpected error, {type(error).__name__}: {error}. The log has the "
                    "traceback; please report it."
                )
            raise typer.Exit(1)


class ServiceCommand(PlantCommand):
    """A command that runs until it is stopped; it logs to stderr, where a service is read."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors as ``load_settings``."""
        given: CommandContext = ctx.obj
        given.verbose = True
        return super().invoke(ctx)


class ShortCommand(PlantCommand):
    """A plant command that ends soon, and therefore runs without the garbage collector.

    The collector would look for garbage among the objects of MLflow, which take seconds to import,
    several times during the import and once more when Python exits: two fifths of the CPU time.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors as ``load_settings``."""
        gc.disable()
        try:
            return super().invoke(ctx)
        finally:
            gc.freeze()  # Python's exit collects no frozen objects
            gc.enable()
