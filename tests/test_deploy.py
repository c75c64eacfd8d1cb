"""What ``deploy/`` promises to Compose and to the servers; no container is started."""

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import mlflow.environment_variables
import prefect.settings
import pytest
import yaml
from mlflow.server.security_utils import is_allowed_host_header
from prefect.settings.models.server.events import ServerEventsSettings
from typer.main import get_command

from stillwatch.flows.cli import app
from stillwatch.settings import load_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
UNIT = DEPLOY / "stillwatch.service"
SECRETS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "PGPASSWORD",
    "PREFECT_SERVER_API_AUTH_STRING",
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return loaded


def keeps_to_the_compose_specification(file: Path) -> bool:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*command, str(file)], check=False, capture_output=True).returncode == 0


def test_it_keeps_to_the_compose_specification(tmp_path: Path) -> None:
    assert keeps_to_the_compose_specification(COMPOSE)
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "helthcheck:"))
    assert not keeps_to_the_compose_specification(wrong)


def test_every_password_must_be_given_and_none_has_a_default() -> None:
    used = dict(re.findall(r"\$\{([A-Z_]+):([?-])", COMPOSE.read_text()))
    example = (DEPLOY / ".env.example").read_text()
    assert set(used) == set(re.findall(r"^#?([A-Z_]+)=$", example, re.MULTILINE))
    assert "=" not in re.sub(r"^#?[A-Z_]+=$", "", example, flags=re.MULTILINE)
    assert {name for name, kind in used.items() if kind == "?"} == SECRETS | {
        "PLANT_FOLDER",
        "PLANT_UID",
    }


def test_pages_are_on_loopback_unless_told_otherwise(services: dict[str, Any]) -> None:
    published = [port for one in services.values() for port in one.get("ports", ())]
    assert len(published) == 2
    assert all(port.startswith("${STILLWATCH_ADDRESS:-127.0.0.1}:") for port in published)


def test_the_commands_and_their_variables_exist(services: dict[str, Any]) -> None:
    program, *arguments = services["mlflow"]["command"]
    assert program == "mlflow"
    server = mlflow_command(arguments[0])
    assert server.make_context("server", arguments[1:]).params["app_name"] == "basic-auth"
    program, *arguments = services["worker"]["command"]
    up = get_command(app).commands["up"]  # type: ignore[attr-defined]
    assert (program, arguments[0]) == ("stillwatch", "up")
    assert up.make_context("up", arguments[1:]).params["foreground"] is True
    mlflows = {*vars(mlflow.environment_variables), *(str(one.envvar) for one in server.params)}
    for service in services.values():
        for name in service["environment"]:
            if name.startswith("PREFECT"):
                assert hasattr(prefect.settings, name), name
            if name.startswith("MLFLOW"):
                assert name in mlflows, name


def mlflow_command(name: str) -> click.Command:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        from mlflow.cli import cli
    return cli.commands[name]


def test_the_worker_and_the_servers_find_each_other(services: dict[str, Any]) -> None:
    tracking = load_settings(DEPLOY / "params.yaml").tracking
    assert tracking.server == "http://mlflow:5000"
    assert services["mlflow"]["command"][-3] == "5000"
    assert services["worker"]["environment"]["PREFECT_API_URL"] == "http://prefect:4200/api"
    assert services["prefect"]["command"][-1] == "4200"
    hosts = services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert is_allowed_host_header(hosts, "mlflow:5000")
    users = configparser.ConfigParser()
    users.read(DEPLOY / "mlflow-users.ini")
    addresses = [
        services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"],
        services["prefect"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"],
        users["mlflow"]["database_uri"],
    ]
    made = {"mlflow", *re.findall(r"DATABASE (\w+);", (DEPLOY / "databases.sql").read_text())}
    assert {address.rpartition("@postgres/")[2] for address in addresses} == made


def test_a_new_worker_container_has_the_name_of_the_one_before(services: dict[str, Any]) -> None:
    """By its host's name it knows the runs that the other left; by default it is a random one."""
    assert services["worker"]["hostname"] == "worker"


def test_the_unit_keeps_the_services_running() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program == "/srv/stillwatch/.venv/bin/stillwatch"
    assert f"stillwatch init {service['WorkingDirectory']} " in (ROOT / "README.md").read_text()
    up = get_command(app).commands["up"]  # type: ignore[attr-defined]
    assert arguments[0] == "up"
    assert up.make_context("up", arguments[1:]).params["foreground"] is True
    assert service["Restart"] == "on-failure"


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: apt-get install systemd")

    def complaints(text: str) -> str:
        file = tmp_path / "stillwatch.service"
        # It wants a program that is there.
        file.write_text(text.replace("/srv/stillwatch/.venv/bin/stillwatch", sys.executable))
        command = ["systemd-analyze", "verify", "--man=no", str(file)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return "".join(line for line in done.stderr.splitlines() if file.name in line)

    assert complaints(UNIT.read_text()) == ""
    assert "Restarts" in complaints(UNIT.read_text().replace("Restart=", "Restarts="))


def test_prefect_remembers_over_a_power_cut_whom_it_waits_for(services: dict[str, Any]) -> None:
    name = "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER"
    assert services["prefect"]["environment"][name] == "P30D"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, "P30D")
        assert ServerEventsSettings().expired_bucket_buffer == timedelta(days=30)


def test_the_image_is_made_of_what_is_there() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY --chown=stillwatch (.+) \S+$", dockerfile, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert "constraints.txt" in sources
    assert all((ROOT / source).exists() for source in sources)
    (extras,) = re.findall(r"'\.\[(.+)\]'", dockerfile)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
