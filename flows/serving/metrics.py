"""The Prometheus metrics of the service."""

import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stillwatch.flows.serving.answers import Answer
from stillwatch.flows.serving.champions import CategoryState

INSPECT_PATH = "/inspect/"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_OF_THRESHOLD = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "stillwatch_requests",
            "Requests to inspect an image, by status of the answer.",
            ["category", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "stillwatch_request_seconds",
            "Time from the request's head to the end of the answer.",
            ["category"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.in_work = Gauge(
            "stillwatch_requests_in_work",
            "Requests to inspect an image that are not answered yet.",
            registry=self._registry,
        )
        self._verdicts = Counter(
            "stillwatch_verdicts",
            "Inspected images by verdict.",
            ["category", "model_version", "verdict"],
            registry=self._registry,
        )
        self._scores = Histogram(
            "stillwatch_score_of_threshold",
            "Score divided by the reject threshold: above 1 is rejected.",
            ["category", "model_version"],
            buckets=_OF_THRESHOLD,
            registry=self._registry,
        )
        self._versions = Gauge(
            "stillwatch_model_version",
            "Version of the registry that answers.",
            ["category"],
            registry=self._registry,
        )
        self._not_served = Gauge(
            "stillwatch_champion_not_served",
            "1 while another version than the champion answers, or none, else 0.",
            ["category"],
            registry=self._registry,
        )

    def count(self, answer: Answer) -> None:
        """Count a verdict and its score."""
        version = str(answer.model_version)
        self._verdicts.labels(answer.category, version, answer.verdict).inc()
        # A ratio to a threshold that is not positive has no meaning.
        if answer.thresholds.reject > 0:
            share = answer.score / answer.thresholds.reject
            self._scores.labels(answer.category, version).observe(share)

    def page(self, states: Mapping[str, CategoryState]) -> bytes:
        """The metrics in Prometheus' text format, with the states of the categories."""
        self._versions.clear()
        self._not_served.clear()
        for category, state in states.items():
            if state.model_version is not None:
                self._versions.labels(category).set(state.model_version)
            self._not_served.labels(category).set(state.problem is not None)
        return generate_latest(self._registry)


class CountRequests:
    """ASGI middleware that counts and times the requests to inspect an image.

    Args:
        is_known: whether a category gets a label of its own. Otherwise anybody could create any
            number of labels.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, is_known: Callable[[str], bool]) -> None:
        self._app = app
        self._metrics = metrics
        self._is_known = is_known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or not scope["path"].startswith(INSPECT_PATH):
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        asked = scope["path"].removeprefix(INSPECT_PATH)
        category = asked if self._is_known(asked) else ""
        start = time.perf_counter()
        try:
            with self._metrics.in_work.track_inprogress():
                await self._app(scope, receive, send_and_note)
        finally:
            self._metrics.requests.labels(category, str(status)).inc()
            self._metrics.seconds.labels(category).observe(time.perf_counter() - start)
