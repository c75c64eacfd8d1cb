"""Keep the log lines of Prefect, MLflow and DVC out of the terminal, in a file."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class LogFile(logging.FileHandler):
    """Appends log lines to a file, which is created with the first line.

    A line that cannot be written, as on a full disk, is lost and stops nothing.

    Args:
        file: in a folder that need not exist.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file, encoding="utf-8", delay=True)
        form = "%(asctime)s %(levelname)-7s %(name)s [%(task_run_name)s] %(message)s"
        # Prefect adds the name of the task to the lines that a task logs.
        self.setFormatter(logging.Formatter(form, defaults={"task_run_name": "-"}))

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.baseFilename)

    @property
    def is_used(self) -> bool:
        """Whether a line was logged."""
        return self.stream is not None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (of the base class)
        """Do nothing if the file cannot be written to."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            super().close()


@contextmanager
def logged_to(handlers: list[logging.Handler]) -> Iterator[None]:
    """Give the log lines and warnings of the block to these handlers alone.

    Prefect leaves the handlers of a root logger as they are if there are some when Prefect is
    imported. Where Prefect was imported before, its handler for the terminal is taken off. A line
    that cannot be logged, as when Prefect's server fails, is not reported.

    Args:
        handlers: closed at the end.
    """
    before = _replace_handlers(handlers)
    raised, logging.raiseExceptions = logging.raiseExceptions, False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.raiseExceptions = raised
        _replace_handlers(before)
        for handler in handlers:
            handler.close()


def log_file() -> Path | None:
    """The file that ``logged_to`` writes to now; None outside its block."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile):
            return handler.path
    return None


def log_to(file: Path) -> None:
    """Give the log lines of this process to a file alone, until the process ends."""
    _replace_handlers([LogFile(file)])
    logging.captureWarnings(True)


def _replace_handlers(handlers: list[logging.Handler]) -> list[logging.Handler]:
    """Replace the handlers of the root logger and return those that it had."""
    root = logging.getLogger()
    before = list(root.handlers)
    for handler in before:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    return before
