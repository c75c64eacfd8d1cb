"""The MLflow server of the local store, and the address of its pages."""

import sys
from collections.abc import Mapping
from pathlib import Path

from stillwatch.files import atomic_file
from stillwatch.flows.servers.network import ANY_ADDRESS, ensure_protected, is_loopback
from stillwatch.flows.servers.service import RunningService, Service, unless_set
from stillwatch.settings import Settings

PREFERRED_PORT = 5000
PASSWORDS = ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
"""Environment variables without which the server listens on loopback only."""

_USERS = """\
; Who may do what. The password of the first user comes from MLFLOW_AUTH_ADMIN_PASSWORD.
[mlflow]
default_permission = READ
database_uri = sqlite:///{database}
admin_username = admin
"""


def mlflow_service(folder: Path) -> Service:
    """The MLflow server of a state folder, whether or not it runs."""
    return Service(folder / "mlflow-server.log")


def pages_address(settings: Settings) -> str:
    """Where a browser finds MLflow; with a local store, while ``stillwatch up`` has it running."""
    server = settings.tracking.server
    if server is not None:
        return server.rstrip("/")
    running = mlflow_service(settings.state_dir).running()
    return running.url if running is not None else f"http://127.0.0.1:{PREFERRED_PORT}"


def start_mlflow_server(
    store_uri: str, artifacts: str, folder: Path, *, host: str
) -> RunningService:
    """Start the MLflow server of a state folder and wait until it answers.

    Beyond loopback it asks for names and passwords (MLflow's basic authentication).

    Args:
        store_uri: the tracking store, for example ``sqlite:////…/mlflow.db``.
        artifacts: URI of the artifacts that the server hands out.
        folder: the state folder, for the log of the server and the list of its users.
        host: where it listens.

    Raises:
        SettingsError: the server would be reachable without passwords.
        ServerError: the server did not start; the message names its log.
    """
    ensure_protected(host, PASSWORDS)
    protected = not is_loopback(host)
    environment = {
        # Not as arguments, which everybody on the machine can read: the URI may have a password.
        "MLFLOW_BACKEND_STORE_URI": store_uri,
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
        # stillwatch submits no MLflow jobs; their runner costs seven processes and 0.5 GB.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **(_protection(host, folder / "mlflow") if protected else {}),
    }
    return mlflow_service(folder).start(
        lambda port: [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", host, "--port", str(port)),
            *(("--app-name", "basic-auth") if protected else ()),
        ],
        host=host,
        preferred_port=PREFERRED_PORT,
        health_path="/health",
        environment=lambda _port: environment,
    )


def _protection(host: str, folder: Path) -> Mapping[str, str]:
    """The users and accepted host names of the server, unless the environment has them."""
    users = folder / "users.ini"
    database = str(folder.resolve() / "users.db").replace("%", "%%")
    with atomic_file(users) as made:
        made.write_text(_USERS.format(database=database), encoding="utf-8")
    variables = {"MLFLOW_AUTH_CONFIG_PATH": str(users)}
    if host != ANY_ADDRESS:
        variables["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{host}:*,localhost:*,127.0.0.1:*"
    return unless_set(variables)
