"""Start a flow run of a deployment when there is something to do.

``stillwatch up`` runs this module, with a port as its argument, where the trigger answers with
status 200 while it works. The environment variables ``PREFECT_API_URL`` and ``STILLWATCH_PARAMS``
name the Prefect server and the settings file.
"""

import hashlib
import logging
import os
import socketserver
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import State
from prefect.exceptions import ObjectNotFound

from stillwatch.errors import ServerError, StillwatchError
from stillwatch.flows.servers.forms import Categories, offered_categories, update_forms
from stillwatch.flows.servers.work import Work, images_to_admit, scores_to_test, versions_to_promote
from stillwatch.flows.servers.worker import PARAMS_VARIABLE
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.promotion.promote import complete_abandoned_promotions
from stillwatch.tasks.registry.approval import APPROVAL, APPROVED, PENDING
from stillwatch.tasks.registry.versions import versions_tagged
from stillwatch.tasks.reports.decisions import rewrite_decided
from stillwatch.tasks.tracking.client import Tracking, open_tracking

_POLL_SECONDS = 10.0
_RETRY_SECONDS = 300.0
"""Before work whose run did not complete is started again; doubled after every further run."""
_LONGEST_RETRY_SECONDS = 86_400.0
_TIDY_SECONDS = 60.0
"""Between two polls that take the longer, the more categories there are."""

# Prefect's client raises RuntimeError where no server answers.
_EXPECTED = (StillwatchError, OSError, httpx.HTTPError, RuntimeError)
"""Errors whose sentence says enough; of others the log has the traceback."""

logger = logging.getLogger(__name__)


@dataclass
class _Started:
    """The last run that the trigger started for some work."""

    stamp: object
    run_id: UUID
    at: float
    """Seconds, monotonic."""
    runs: int = 1
    """How many runs were started for the same stamp."""
    completed: bool = False

    @property
    def retry_at(self) -> float:
        """When the same work may be started again; seconds, monotonic."""
        wait = _RETRY_SECONDS * 2.0 ** (self.runs - 1)
        return self.at + min(wait, _LONGEST_RETRY_SECONDS)


class RunStarter:
    """Starts one flow run for each piece of work, and another if that run does not complete.

    Args:
        now: clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last: dict[tuple[object, ...], _Started] = {}

    def start(self, work: Work) -> None:
        """Start a run, unless one was started for the same work or has not ended yet.

        Raises:
            ServerError: the Prefect server has no deployment of this name.
            httpx.HTTPError: the Prefect server does not answer, or refuses the parameters.
        """
        key = _key(work)
        last = self._last.get(key)
        if last is not None and not self._is_due(work, last):
            return
        with get_client(sync_client=True) as client:
            runs = 0
            if last is not None:
                state = _state_of(client, last.run_id)
                if state is not None and not state.is_final():
                    return
                if last.stamp == work.stamp:
                    last.completed = state is not None and state.is_completed()
                    if last.completed:
                        return
                    runs = last.runs
            deployment_id = _deployment(client, f"{work.flow}/{work.flow}")
            # For the key of an earlier run, Prefect returns that run: a restart of the trigger, or
            # the trigger of another machine, does not start the same work once more.
            key_of_run = hashlib.sha256(repr((key, work.stamp, runs)).encode()).hexdigest()
            run = client.create_flow_run_from_deployment(
                deployment_id, parameters=dict(work.parameters), idempotency_key=key_of_run
            )
        self._last[key] = _Started(work.stamp, run.id, self._now(), runs + 1)

    def _is_due(self, work: Work, last: _Started) -> bool:
        if last.stamp == work.stamp:
            return not last.completed and self._now() >= last.retry_at
        return self._now() >= last.at + work.seconds_between


def _key(work: Work) -> tuple[object, ...]:
    """What stays the same when there is more to do."""
    return work.flow, *sorted(work.parameters.items())


class Trigger:
    """Looks for work again and again, and starts the runs."""

    def __init__(self, params: Path) -> None:
        self._params = params
        self._starter = RunStarter()
        self._errors: dict[str, str] = {}
        self._tidy_at = 0.0
        self._offered: Categories | None = None
        self._waiting: set[tuple[str, int]] | None = None

    def poll(self) -> None:
        """Start the runs for what there is to do; log a warning for what cannot be done now.

        Also complete or cancel interrupted promotions, offer new categories in the forms, and
        rewrite the approval pages of versions that wait no more.
        """
        with self._logged("settings"):
            settings, tracking = _opened(self._params, self._params.stat().st_mtime_ns)
            if time.monotonic() >= self._tidy_at:
                self._tidy_at = time.monotonic() + _TIDY_SECONDS
                with self._logged("interrupted promotions"):
                    complete_abandoned_promotions(tracking, settings)
                with self._logged("forms"):
                    self._update_forms(settings, tracking)
                with self._logged("approval pages"):
                    self._rewrite_decided(tracking)
            found: list[Work] = []
            with self._logged("inbox"):
                found += images_to_admit(settings)
            with self._logged("approvals"):
                found += versions_to_promote(tracking)
            with self._logged("scores"):
                found += scores_to_test(settings)
            for work in found:
                with self._logged(" ".join(["run of", *map(str, _key(work))])):
                    self._starter.start(work)

    def _update_forms(self, settings: Settings, tracking: Tracking) -> None:
        categories = offered_categories(settings, tracking)
        if categories != self._offered:
            update_forms(categories)
            self._offered = categories

    def _rewrite_decided(self, tracking: Tracking) -> None:
        """Read the pages, which have pictures, only when a version has ceased to wait."""
        waiting = {
            (version.name, int(version.version))
            for value in (PENDING, APPROVED)
            for version in versions_tagged(tracking, APPROVAL, value)
        }
        if self._waiting is None or self._waiting - waiting:
            rewrite_decided(tracking)
        self._waiting = waiting

    @contextmanager
    def _logged(self, name: str) -> Iterator[None]:
        """Log an error once; what the error stopped is tried again at the next poll."""
        try:
            yield
        except Exception as error:  # nobody would see that the trigger has ended
            if self._errors.get(name) != str(error):
                logger.warning("%s: %s", name, error, exc_info=not isinstance(error, _EXPECTED))
            self._errors[name] = str(error)
        else:
            self._errors.pop(name, None)


@lru_cache(maxsize=1)
def _opened(params: Path, _mtime_ns: int) -> tuple[Settings, Tracking]:
    """The settings and the MLflow store, read again when the settings file has changed."""
    settings = load_settings(params)
    return settings, open_tracking(settings)


def _deployment(client: SyncPrefectClient, name: str) -> UUID:
    try:
        return client.read_deployment_by_name(name).id
    except ObjectNotFound as error:
        raise ServerError(
            f"the Prefect server has no deployment {name}. Name it in prefect.yaml and run "
            "'stillwatch up', which deploys this file."
        ) from error


def _state_of(client: SyncPrefectClient, run_id: UUID) -> State[object] | None:
    """The state of a flow run; None if somebody has deleted the run."""
    try:
        return client.read_flow_run(run_id).state
    except ObjectNotFound:
        return None


class _Health(BaseHTTPRequestHandler):
    """Answers every GET with status 200."""

    timeout = 5
    """Seconds until a client that sends nothing is left alone."""

    def do_GET(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Leave requests out of the log."""


def main(port: int) -> None:
    """Look for work until the process is stopped, and answer on the port between two polls."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    trigger = Trigger(Path(os.environ[PARAMS_VARIABLE]))
    socketserver.TCPServer.allow_reuse_address = True
    with socketserver.TCPServer(("127.0.0.1", port), _Health) as server:
        while True:
            trigger.poll()
            until = time.monotonic() + _POLL_SECONDS
            while (left := until - time.monotonic()) > 0:
                server.timeout = left
                server.handle_request()


if __name__ == "__main__":
    main(int(sys.argv[1]))
