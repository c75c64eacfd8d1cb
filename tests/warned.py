"""What stillwatch logs as a warning while it waits, and what ends the waiting."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def when_warned(do: Callable[[], object]) -> Iterator[list[str]]:
    """Call ``do`` at every warning of stillwatch in the block; the list has the warnings."""
    warnings: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())
            do()

    listener, logger = Listener(logging.WARNING), logging.getLogger("stillwatch")
    logger.addHandler(listener)
    try:
        yield warnings
    finally:
        logger.removeHandler(listener)
