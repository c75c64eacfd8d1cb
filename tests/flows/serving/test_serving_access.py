"""Who may ask the service, and where it may listen."""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from made_stores import new_store

from stillwatch.errors import ServerError, SettingsError, StillwatchError, TrackingError
from stillwatch.flows.serving.app import make_app
from stillwatch.flows.serving.champions import Champions
from stillwatch.flows.serving.server import KEY_VARIABLE, serve
from stillwatch.inference.score_log import open_score_log
from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import Tracking

KEY = "a key of some length"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    settings = Settings(state_dir=tmp_path)
    new_store(settings)
    return settings


@pytest.fixture
def locked(settings: Settings) -> Iterator[FastAPI]:
    """A service with a key, before it has looked into the registry."""
    with ThreadPoolExecutor(1) as compute, open_score_log(settings) as log:
        champions = Champions(
            Tracking("unused", None, settings.state_dir), settings, ["plate"], compute, log
        )
        yield make_app(champions, settings.serving, KEY)


def ask(app: FastAPI, method: str, path: str, **headers: str) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            sent = {name: value.encode() for name, value in headers.items()}
            return await client.request(method, path, headers=sent)

    return asyncio.run(request())


@pytest.mark.parametrize("given", ["", "Bearer ", f"Bearer {KEY}r", f"Basic {KEY}", "Bearer Üä"])
def test_images_and_metrics_need_the_key(locked: FastAPI, given: str) -> None:
    headers = {"Authorization": given} if given else {}
    for method, path in (("POST", "/inspect/plate"), ("GET", "/metrics")):
        refused = ask(locked, method, path, **headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert KEY not in refused.text


def test_with_the_key_one_hears_what_there_is(locked: FastAPI) -> None:
    early = ask(locked, "POST", "/inspect/plate", Authorization=f"Bearer {KEY}")
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    assert early.json()["detail"] == "nothing serves plate: not loaded yet"
    metrics = ask(locked, "GET", "/metrics", Authorization=f"Bearer {KEY}")
    assert 'stillwatch_requests_total{category="plate",status="503"} 1.0' in metrics.text


def test_probes_need_no_key(locked: FastAPI) -> None:
    assert ask(locked, "GET", "/health").status_code == 200
    ready = ask(locked, "GET", "/ready")
    assert ready.status_code == 503
    assert ready.json()["categories"] == {
        "plate": {"model_version": None, "problem": "not loaded yet"}
    }


def refusal(settings: Settings, kind: type[StillwatchError], **changes: object) -> str:
    asked = {"categories": None, "host": "127.0.0.1", "port": 0, "announce": print} | changes
    with pytest.raises(kind) as caught:
        serve(settings, **asked)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104
def test_other_machines_are_let_in_only_with_a_key(settings: Settings, host: str) -> None:
    assert KEY_VARIABLE in refusal(settings, SettingsError, host=host)


def test_a_short_key_is_refused_and_not_repeated(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "geheim")
    said = refusal(settings, SettingsError)
    assert KEY_VARIABLE in said
    assert "geheim" not in said


def test_a_host_that_is_not_there_and_a_port_that_is_taken(settings: Settings) -> None:
    assert "no such host" in refusal(settings, SettingsError, host="nowhere.invalid")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port}" in refusal(settings, ServerError, port=port)


def test_a_category_that_is_not_registered(settings: Settings) -> None:
    said = refusal(settings, TrackingError, categories=["plate"])
    assert "nothing is registered yet" in said
