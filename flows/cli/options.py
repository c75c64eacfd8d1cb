"""Options that several commands share."""

from functools import cached_property
from pathlib import Path
from typing import Annotated

import typer

from stillwatch.settings import Settings, load_settings
from stillwatch.threads import set_thread_policy

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Image set in MVTec layout outside the workspace; it is imported, never written to.",
        show_default="the workspace's image set",
    ),
]
Categories = Annotated[
    list[str] | None,
    typer.Option("--category", help="Repeat for several.", show_default="all"),
]


class CommandContext:
    """What the global options say; the settings file is read by the first command that asks."""

    def __init__(self, params: Path) -> None:
        self.params = params

    @cached_property
    def settings(self) -> Settings:
        """The settings; ``runtime.threads`` is in effect from here on.

        Raises:
            SettingsError: see ``load_settings``.
        """
        settings = load_settings(self.params)
        set_thread_policy(settings.runtime.threads)
        return settings
