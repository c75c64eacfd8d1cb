"""Promotions through an MLflow server, also one that is killed in the middle of one."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_stores import new_store
from mlflow import MlflowClient
from tests.tasks.made_registries import NAME, aliases, made_record, new_version, pending_version

from stillwatch.errors import TrackingError
from stillwatch.flows.servers.mlflow_server import mlflow_service, start_mlflow_server
from stillwatch.flows.servers.service import RunningService
from stillwatch.settings import Settings, TrackingSettings
from stillwatch.tasks.promotion.alias import changing_champion, move_champion
from stillwatch.tasks.promotion.history import history, open_intents
from stillwatch.tasks.tracking.client import Tracking, artifact_uri, open_tracking, tracking_uri

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.xdist_group("promotion_by_server"),
]

Start = Callable[[], tuple[RunningService, Settings]]


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state")


@pytest.fixture
def store(here: Settings) -> Tracking:
    """The same store without the server, which takes no version whose files are nowhere."""
    return new_store(here)


@pytest.fixture
def start(here: Settings, store: Tracking, tmp_path: Path) -> Iterator[Start]:
    """Starts a server over the one store of the test, and names it in settings."""

    def start() -> tuple[RunningService, Settings]:
        artifacts = str(artifact_uri(here))
        server = start_mlflow_server(tracking_uri(here), artifacts, tmp_path, host="127.0.0.1")
        there = TrackingSettings(uri=server.url)
        return server, here.model_copy(update={"tracking": there})

    yield start
    mlflow_service(tmp_path).stop()


def promote(tracking: Tracking, settings: Settings, to: int, champion: int | None) -> None:
    with changing_champion(tracking, "plate", settings):
        move_champion(tracking, made_record(to, champion))


def test_a_promotion_whose_server_is_killed_is_completed_by_the_next_command(
    store: Tracking, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, settings = start()
    tracking = open_tracking(settings)
    first = new_version(store)
    promote(tracking, settings, first, None)
    second = pending_version(store, first)
    assert aliases(tracking) == {"champion": first, "previous": None, "challenger": second}

    real = MlflowClient.set_registered_model_alias

    def without_server(self: MlflowClient, name: str, alias: str, version: Any) -> None:
        if alias == "champion":
            os.killpg(server.pid, signal.SIGKILL)  # the server and its worker
        real(self, name, alias, version)

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", without_server)
        with pytest.raises(TrackingError, match="Check that the server is up"):
            promote(tracking, settings, second, first)

    _, settings = start()
    tracking = open_tracking(settings)
    assert aliases(tracking) == {"champion": first, "previous": first, "challenger": second}
    assert history(tracking, "plate")[0].state == "open"
    with changing_champion(tracking, "plate", settings):
        assert open_intents(tracking, "plate") == []
    assert aliases(tracking) == {"champion": second, "previous": first, "challenger": None}
    assert [entry.state for entry in history(tracking, "plate")] == ["done", "done"]
    assert tracking.client.get_model_version(NAME, str(second)).tags["stillwatch.champion_since"]
