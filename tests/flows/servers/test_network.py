"""Where the servers may listen without passwords."""

from pathlib import Path

import pytest
from tests.flows.conftest import make_plant

from stillwatch.errors import SettingsError
from stillwatch.flows.servers.network import ensure_protected, is_loopback

EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_loopback_needs_no_password(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_PASSWORD", raising=False)
    assert is_loopback(host)
    ensure_protected(host, ["A_PASSWORD"])


def test_elsewhere_every_password_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST", "")
    monkeypatch.setenv("SECOND", "b")
    monkeypatch.delenv("THIRD", raising=False)
    with pytest.raises(SettingsError, match="set FIRST and THIRD in the environment"):
        ensure_protected(EVERYWHERE, ["FIRST", "SECOND", "THIRD"])
    ensure_protected(EVERYWHERE, ["SECOND"])


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=f"services.host: this machine cannot listen at {host}"):
        is_loopback(host)


def test_up_refuses_before_it_starts_anything(tmp_path: Path) -> None:
    plant = make_plant(tmp_path / "line")
    plant.set_params(services={"host": EVERYWHERE})
    refused = plant.run_here("up")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    for variable in (
        "PREFECT_SERVER_API_AUTH_STRING",
        "MLFLOW_AUTH_ADMIN_PASSWORD",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
    ):
        assert variable in refused.stderr
    assert not plant.state.exists()
