"""The log file of a command, and what a command shows in the terminal of what is logged."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from stillwatch.flows.cli.console import note, warn
from stillwatch.tasks.libraries.logs import LogFile, logged_to

FOLDER = "logs"
"""In the state folder; has a file for each command that logged something."""
_KEPT = 50
"""Log files that are kept, the newest ones."""


@contextmanager
def command_log(state_dir: Path, command: str) -> Iterator[None]:
    """Log to a file in the block, and name the file at the end if something was logged.

    stillwatch's own warnings are shown in the terminal, too.

    Args:
        state_dir: the state folder; it need not exist.
        command: names the file.
    """
    folder = state_dir / FOLDER
    file = LogFile(folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{command}.log")
    # It has a handler for the terminal of its own. A variable would silence the servers, too.
    internal = logging.getLogger("prefect._internal.concurrency")
    with logged_to([file, OwnWarnings()]):
        internal.disabled = True
        try:
            yield
        finally:
            internal.disabled = False
            if file.is_used:
                _remove_oldest(folder)
                note(f"log: {from_here(file.path)}")


class OwnWarnings(logging.Handler):
    """Shows the warnings that stillwatch logs; a traceback is for the file."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(logging.Filter("stillwatch"))

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning in the terminal, unless it has a traceback."""
        if record.exc_info is None:
            warn(record.getMessage())


def _remove_oldest(folder: Path) -> None:
    for file in sorted(folder.glob("*.log"))[:-_KEPT]:
        with suppress(OSError):
            file.unlink()


def from_here(file: Path) -> Path:
    """A file as a person in the working directory names it."""
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file
