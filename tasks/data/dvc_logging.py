"""DVC made quiet, and why its latest transfer failed."""

import logging

import colorama
import dvc.repo  # noqa: F401 - its import sets up what is undone here


class Failures(logging.Handler):
    """Keeps the reason of DVC's latest failed transfer, which DVC logs but does not raise."""

    latest: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's exception."""
        if record.exc_info and record.exc_info[1]:
            self.latest = record.exc_info[1]


failures = Failures(level=logging.ERROR)


def _silence() -> None:
    # Importing DVC wraps stdout for Windows consoles.
    colorama.deinit()
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.addHandler(failures)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
    # DVC switches it off for everybody, and with it what Prefect's tasks die of.
    logging.getLogger("asyncio").setLevel(logging.NOTSET)
    # DVC shows its progress bars unless this logger is off.
    logging.getLogger("dvc.progress").setLevel(logging.CRITICAL)


_silence()
