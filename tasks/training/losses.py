"""Send the losses of a running training to MLflow."""

import logging
import time

from mlflow.entities import Metric

from stillwatch.errors import TrackingError
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.entries import milliseconds


class EpochLog:
    """Collects losses and sends them every few seconds instead of every epoch.

    A server that is down for a while does not stop a training: losses that could not be sent are
    sent with the next ones.
    """

    def __init__(self, tracking: Tracking, run_id: str, every_seconds: float = 5.0) -> None:
        self._tracking = tracking
        self._run_id = run_id
        self._every = every_seconds
        self._pending: list[Metric] = []
        self._sent_at = time.monotonic()
        self._seen: set[tuple[str, int]] = set()

    def add(self, phase: str, epoch: int, train_loss: float, validation_loss: float) -> None:
        """Add the losses of an epoch, unless the epoch was added before."""
        if (phase, epoch) in self._seen:
            return
        self._seen.add((phase, epoch))
        now = milliseconds()
        self._pending += [
            Metric(f"{phase}/train_loss", train_loss, now, epoch),
            Metric(f"{phase}/validation_loss", validation_loss, now, epoch),
        ]
        if time.monotonic() - self._sent_at >= self._every:
            try:
                self.flush()
            except TrackingError as error:
                self._sent_at = time.monotonic()
                logging.getLogger(__name__).warning("%s The training goes on.", error)

    def start_over(self) -> None:
        """Forget the epochs of an attempt that failed, before the next attempt."""
        self._seen.clear()
        self._pending = []

    def flush(self) -> None:
        """Send all losses that were not sent yet."""
        self._tracking.log(self._run_id, metrics=self._pending)
        self._pending = []
        self._sent_at = time.monotonic()
