"""The MLflow server over the store that is opened here, and where its pages are."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from stillwatch.files import atomic_file
from stillwatch.flows.servers.network import ANY_ADDRESS, ensure_protected, is_loopback
from stillwatch.flows.servers.processes import StartedServer, start_server
from stillwatch.flows.servers.service_register import read_services
from stillwatch.settings import Settings

LOG_FILE = "mlflow-server.log"
PREFERRED_PORT = 5000
PASSWORDS = ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
"""Environment variables without which it listens on loopback only."""

_USERS = """\
; Who may do what. The password of the first user comes from MLFLOW_AUTH_ADMIN_PASSWORD.
[mlflow]
default_permission = READ
database_uri = sqlite:///{database}
admin_username = admin
"""


def pages_address(settings: Settings) -> str:
    """Where a browser finds MLflow; with a local store, while ``stillwatch up`` has it running."""
    server = settings.tracking.server
    if server is not None:
        return server.rstrip("/")
    started = read_services(settings.state_dir).mlflow
    return started.url if started is not None else f"http://127.0.0.1:{PREFERRED_PORT}"


def start_mlflow_server(
    store_uri: str,
    artifacts: str,
    folder: Path,
    *,
    host: str,
    register: Callable[[StartedServer], object] = lambda _server: None,
) -> StartedServer:
    """Start an MLflow server over a store and wait until it answers.

    Beyond loopback it asks for names and passwords (MLflow's basic authentication).

    Args:
        store_uri: the tracking store, for example ``sqlite:////…/mlflow.db``.
        artifacts: URI of the artifacts that the server hands out.
        folder: for its log, and for who may log in.
        host: where it listens.
        register: is told of it before it answers.

    Raises:
        SettingsError: it would be reachable without passwords.
        ServerError: the server did not start; the message names its log.
    """
    ensure_protected(host, PASSWORDS)
    protected = not is_loopback(host)
    environment = {
        # Not as arguments, which everybody on the machine can read.
        "MLFLOW_BACKEND_STORE_URI": store_uri,
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
        # stillwatch submits no MLflow jobs; their runner costs seven processes and 0.5 GB.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **(_protection(host, folder / "mlflow") if protected else {}),
    }
    return start_server(
        lambda port: [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", host, "--port", str(port)),
            *(("--app-name", "basic-auth") if protected else ()),
        ],
        host=host,
        preferred_port=PREFERRED_PORT,
        health_path="/health",
        environment=lambda _port: environment,
        log=folder / LOG_FILE,
        register=register,
    )


def _protection(host: str, folder: Path) -> Mapping[str, str]:
    """Tell the server who may log in and by which name it is asked for, unless it has been told."""
    users = folder / "users.ini"
    database = str(folder.resolve() / "users.db").replace("%", "%%")
    with atomic_file(users) as made:
        made.write_text(_USERS.format(database=database), encoding="utf-8")
    told = {"MLFLOW_AUTH_CONFIG_PATH": str(users)}
    if host != ANY_ADDRESS:
        told["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{host}:*,localhost:*,127.0.0.1:*"
    return {name: value for name, value in told.items() if name not in os.environ}
