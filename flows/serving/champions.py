"""Loading the champion of each category, and replacing it when the registry changes."""

import logging
import threading
import time
from collections.abc import Collection
from concurrent.futures import Executor
from dataclasses import dataclass

from stillwatch.errors import StillwatchError
from stillwatch.flows.serving.served_model import ServedModel, load_model
from stillwatch.inference.score_log import ScoreLog
from stillwatch.settings import Settings
from stillwatch.tasks.registry.versions import champions, registered_version
from stillwatch.tasks.tracking.client import Tracking

_RETRY_SECONDS = 60.0
"""Wait before another attempt to load a version."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CategoryState:
    """The state of a category."""

    model_version: int | None
    """The version that inspects images; None: no version does."""
    problem: str | None
    """Why ``model_version`` is not the champion; None if it is."""


@dataclass(frozen=True)
class _Failure:
    version: int
    when: float


class Champions:
    """Polls the registry in a thread, loads new champions, and replaces the models.

    A request keeps the model with which it started, so a replacement loses no request. If a version
    cannot be loaded, the previous model stays.

    Args:
        categories: which to serve; None: all categories that have a champion.
        compute: the only thread that scores images.
    """

    def __init__(
        self,
        tracking: Tracking,
        settings: Settings,
        categories: Collection[str] | None,
        compute: Executor,
        log: ScoreLog,
    ) -> None:
        self._tracking = tracking
        self._settings = settings
        self._categories = categories
        self._compute = compute
        self._score_log = log
        self._models: dict[str, ServedModel] = {}
        self._wanted: dict[str, int] = {}
        self._failures: dict[str, _Failure] = {}
        self.looked = False
        """Whether the champions that the registry named have been loaded, or failed to load."""
        self.registry_answers = True
        """Whether it answered when it was last asked."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="champions", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; wait up to 10 s for a model that is being loaded."""
        self._stopped.set()
        self._thread.join(timeout=10)

    def model(self, category: str) -> ServedModel | None:
        """The model of a category; None if it has none."""
        return self._models.get(category)

    def expects(self, category: str) -> bool:
        """Whether a category is served, even if its model is not loaded."""
        return category in self._wanted or category in (self._categories or ())

    @property
    def ready(self) -> bool:
        """Whether every served category has a model."""
        states = self.states()
        served = all(state.model_version is not None for state in states.values())
        return self.looked and bool(states) and served

    def states(self) -> dict[str, CategoryState]:
        """The state of each category."""
        wanted, models = self._wanted, self._models
        names = sorted({*wanted, *(self._categories or ())})
        return {name: self._state(name, wanted.get(name), models.get(name)) for name in names}

    def _state(self, name: str, wanted: int | None, model: ServedModel | None) -> CategoryState:
        serves = None if model is None else model.version
        failure = self._failures.get(name)
        if wanted is None:
            return CategoryState(serves, "it has no champion" if self.looked else "not loaded yet")
        if serves == wanted:
            return CategoryState(serves, None)
        if failure is not None and failure.version == wanted:
            return CategoryState(serves, f"version {wanted} cannot be served; the log says why")
        return CategoryState(serves, f"version {wanted} is being loaded")

    def _poll(self) -> None:
        while not self._stopped.is_set():
            try:
                self._look()
            except Exception as error:  # the service goes on with what it has
                if self.registry_answers:
                    _log.error("the registry does not say what to serve: %s", error)
                self.registry_answers = False
            self._stopped.wait(self._settings.serving.poll_seconds)

    def _look(self) -> None:
        found = champions(self._tracking)
        if not self.registry_answers:
            _log.info("the registry answers again")
        self.registry_answers = True
        chosen = self._categories
        self._wanted = {k: v for k, v in found.items() if chosen is None or k in chosen}
        for category in set(self._models) - set(self._wanted):
            del self._models[category]
            _log.warning("%s: has no champion any more and is no longer served", category)
        for category, version in self._wanted.items():
            if self._stopped.is_set():
                return
            if self._is_to_be_loaded(category, version):
                self._replace(category, version)
        self.looked = True

    def _is_to_be_loaded(self, category: str, version: int) -> bool:
        model, failure = self._models.get(category), self._failures.get(category)
        if model is not None and model.version == version:
            return False
        if failure is None or failure.version != version:
            return True
        return time.monotonic() - failure.when > _RETRY_SECONDS

    def _replace(self, category: str, version: int) -> None:
        start = time.monotonic()
        try:
            registered = registered_version(self._tracking, category, version)
            own = self._settings.for_category(category)
            model = load_model(self._tracking, registered, own, self._compute, self._score_log)
        except Exception as error:  # also when the device has no memory left
            self._failed(category, version, error)
            return
        self._models[category] = model
        self._failures.pop(category, None)
        _log.info("%s: version %d serves after %.1f s", category, version, time.monotonic() - start)

    def _failed(self, category: str, version: int, error: Exception) -> None:
        before = self._models.get(category)
        stays = f"version {before.version} goes on" if before else "nothing serves it"
        trace = None if isinstance(error, StillwatchError) else error
        _log.error(
            "%s: version %d is the champion and cannot be served, %s: %s",
            *(category, version, stays, error),
            exc_info=trace,
        )
        self._failures[category] = _Failure(version, time.monotonic())
