"""An installation on PostgreSQL and S3 that others can reach, and what it keeps to itself."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
import yaml
from dvc.repo import Repo
from tests.flows.conftest import Plant, make_workspace_plant
from tests.flows.real_stores import USER, postgres, postgres_programs, s3_server

from stillwatch.flows.servers.service import answers
from stillwatch.flows.servers.worker import worker_service
from stillwatch.tasks.data.git import run_git

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.xdist_group("installation"),
]

ROOT = Path(__file__).parents[2]
BUCKET = "parts"
PASSWORDS = {
    "PGPASSWORD": "pg-5f1c0e9a7b",
    "AWS_SECRET_ACCESS_KEY": "s3-2d84bb61f0",
    "PREFECT_SERVER_API_AUTH_STRING": "plant:prefect-90d3a1c4e7",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "mlflow-c7e52f08b3",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "flask-1b9f6d3a52",
}
KEYS = {
    "AWS_ACCESS_KEY_ID": "plant",
    "AWS_SECRET_ACCESS_KEY": PASSWORDS["AWS_SECRET_ACCESS_KEY"],
    "AWS_DEFAULT_REGION": "us-east-1",
}
EVERYWHERE = "0.0.0.0"  # noqa: S104
NOT_THE_USUAL_ADDRESS = "127.0.0.2"
"""Answers only where a server listens at more than 127.0.0.1."""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server(BUCKET, KEYS) as address:
        yield address


@pytest.fixture(scope="module")
def databases() -> Iterator[dict[str, str | None]]:
    """One for each server; SQLite where PostgreSQL is not installed."""
    programs, names = postgres_programs(), ("mlflow", "prefect")
    with ExitStack() as stack:
        if programs is None:
            yield dict.fromkeys(names)
        else:
            server = stack.enter_context(postgres(programs, PASSWORDS["PGPASSWORD"], names))
            yield {name: f"postgresql://{USER}@{server}/{name}" for name in names}


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory, s3: str, databases: dict[str, str | None]
) -> Iterator[Plant]:
    """A plant with everything up, from which one category was retrained."""
    line = make_workspace_plant(tmp_path_factory.mktemp("installation") / "line")
    hosts = {"MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:*,{NOT_THE_USUAL_ADDRESS}:*"}
    plant = Plant(line.folder, PASSWORDS | KEYS | hosts)
    plant.set_params(
        tracking={
            "uri": databases["mlflow"],
            "artifacts": f"s3://{BUCKET}/mlflow",
            "s3_endpoint": s3,
        },
        services={"host": EVERYWHERE, "prefect_database": databases["prefect"]},
        retrain={
            "detectors": ["stfpm"],
            "floors": {"image_auroc": 0.0, "aupro": 0.0, "recall": 0.0},
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", plant.environment()["DVC_SITE_CACHE_DIR"])
        with Repo(str(plant.folder)) as repo, repo.config.edit("repo") as config:
            config["remote"]["bucket"] = {"url": f"s3://{BUCKET}/images", "endpointurl": s3}
            config["core"]["remote"] = "bucket"
    run_git(plant.folder, "add", ".dvc/config")
    run_git(
        *(plant.folder, "-c", "user.name=A", "-c", "user.email=a@b"),
        *("commit", "--quiet", "-m", "the bucket"),
    )
    try:
        started = plant.run("up")
        assert started.returncode == 0, started.stderr
        report = plant.folder / "report.json"
        done = plant.run("retrain", "--report", str(report))
        assert done.returncode == 0, done.stdout + done.stderr
        yield plant
    finally:
        plant.run("down")


@pytest.fixture(scope="module")
def urls(plant: Plant) -> dict[str, str]:
    """Where the servers are, by name."""
    shown = json.loads(plant.run_here("status", "--json").stdout)["services"]
    assert [one["state"] for one in shown] == ["running"] * 4
    return {one["name"]: one["url"] for one in shown if one["url"]}


def test_what_was_registered_is_in_both_databases(
    plant: Plant, databases: dict[str, str | None]
) -> None:
    if databases["mlflow"] is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    count = """
import sys, psycopg2
for url, table in zip(sys.argv[1::2], sys.argv[2::2]):
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        print(cursor.fetchone()[0])
"""
    counted = subprocess.run(
        [
            *(sys.executable, "-c", count),
            *(databases["mlflow"], "model_versions", databases["prefect"], "flow_run"),
        ],
        env=plant.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    versions, flow_runs = map(int, counted.stdout.split())
    assert versions == 1
    assert flow_runs >= 1
    assert list(plant.state.rglob("mlflow.db")) == list(plant.state.rglob("prefect.db")) == []


def test_a_clone_elsewhere_pulls_the_images_from_the_bucket(plant: Plant, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "--quiet", str(plant.folder), str(clone))
    subprocess.run(
        [sys.executable, "-m", "dvc", "pull"],
        cwd=clone,
        env=plant.environment(),
        check=True,
        capture_output=True,
    )

    def images(folder: Path) -> dict[str, bytes]:
        files = (folder / "data").rglob("*.png")
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}

    assert len(images(clone)) > 20
    assert images(clone) == images(plant.folder)


def test_the_registered_model_is_loaded_from_the_bucket(
    plant: Plant, urls: dict[str, str], s3: str, tmp_path: Path
) -> None:
    assert list(plant.state.rglob("MLmodel")) == []
    assert any(key.endswith("/MLmodel") for key in objects(s3))
    load = "import mlflow; print(mlflow.pyfunc.load_model('models:/stillwatch-bolt@champion'))"
    somebody = visitor(urls) | KEYS | {"MLFLOW_S3_ENDPOINT_URL": s3}
    assert "stillwatch" in in_fresh_python(load, somebody, tmp_path)


def test_who_goes_through_the_server_needs_no_keys(
    urls: dict[str, str], s3: str, tmp_path: Path
) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "note.txt").write_text("through the server", encoding="utf-8")
    code = f"""
import os
from pathlib import Path
from stillwatch.errors import TrackingError
from stillwatch.settings import Settings, TrackingSettings
from stillwatch.tasks.tracking.client import open_tracking
server = TrackingSettings(uri="{urls["MLflow"]}")
settings = Settings(state_dir=Path("state"), tracking=server)
password = os.environ.pop("MLFLOW_TRACKING_PASSWORD")
try:
    open_tracking(settings)
except TrackingError as error:
    print(error)
os.environ["MLFLOW_TRACKING_PASSWORD"] = password
tracking = open_tracking(settings)
run = tracking.start_run("washer", "elsewhere", {{}})
tracking.log_folder(run, Path("evidence"), "evidence")
with tracking.artifact(run, "evidence/note.txt") as note:
    print(note.read_text())
"""
    refused, note = in_fresh_python(code, visitor(urls), tmp_path).strip().splitlines()
    assert "that MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD are set" in refused
    assert note == "through the server"
    assert any(key.endswith("/note.txt") for key in objects(s3))


def visitor(urls: dict[str, str]) -> dict[str, str]:
    """The environment of somebody on another machine who may use MLflow."""
    return {
        "MLFLOW_TRACKING_URI": urls["MLflow"],
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": PASSWORDS["MLFLOW_AUTH_ADMIN_PASSWORD"],
    }


def in_fresh_python(code: str, variables: dict[str, str], folder: Path) -> str:
    kept = Plant(folder, variables).environment()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(s3: str) -> dict[str, bytes]:
    """What is in the bucket."""
    bucket = boto3.resource(
        "s3",
        endpoint_url=s3,
        region_name=KEYS["AWS_DEFAULT_REGION"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    ).Bucket(BUCKET)
    return {one.key: one.get()["Body"].read() for one in bucket.objects.all()}


def status_of(url: str, user: str = "") -> int:
    header = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
    request = urllib.request.Request(url, headers=header)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_others_reach_it_with_a_password_only(urls: dict[str, str]) -> None:
    ports = {name: urlsplit(url).port for name, url in urls.items()}
    for name, path, user in (
        (
            "MLflow",
            "ajax-api/2.0/mlflow/registered-models/search",
            "admin:" + PASSWORDS["MLFLOW_AUTH_ADMIN_PASSWORD"],
        ),
        ("Prefect", "api/admin/version", PASSWORDS["PREFECT_SERVER_API_AUTH_STRING"]),
    ):
        url = f"http://{NOT_THE_USUAL_ADDRESS}:{ports[name]}/{path}"
        assert status_of(url) == HTTPStatus.UNAUTHORIZED
        assert status_of(url, f"{user}x") == HTTPStatus.UNAUTHORIZED
        assert status_of(url, user) == HTTPStatus.OK


def test_a_command_without_the_password_is_refused_in_one_sentence(plant: Plant) -> None:
    stranger = Plant(plant.folder, {"PGPASSWORD": PASSWORDS["PGPASSWORD"], **KEYS})
    refused = stranger.run_here("retrain")
    assert refused.returncode == 1
    assert "PREFECT_API_AUTH_STRING" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_worker_of_servers_elsewhere_stays_in_the_foreground(
    urls: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    variables = visitor(urls) | {
        "PREFECT_API_URL": f"{urls['Prefect']}/api",
        "PREFECT_API_AUTH_STRING": PASSWORDS["PREFECT_SERVER_API_AUTH_STRING"],
    }
    container = Plant(tmp_path, variables)
    container.set_params(tracking={"uri": urls["MLflow"]})
    with container.start("up", "--foreground") as started:
        assert started.stdout is not None
        shown = next(line for line in started.stdout if "worker" in line)
        assert "running" in shown
        worker = worker_service(container.state)
        assert worker.running() is not None
        assert started.poll() is None
        started.terminate()
    assert started.returncode == 0
    assert worker.running() is None
    assert healthy(urls) == [True, True]


def healthy(urls: dict[str, str]) -> list[bool]:
    return [answers(f"{urls['MLflow']}/health"), answers(f"{urls['Prefect']}/api/health")]


def test_the_compose_files_bucket_is_made_once(s3: str) -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    _, *arguments = compose["services"]["bucket"]["command"]
    for _ in range(2):
        subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | KEYS | {"AWS_ENDPOINT_URL": s3},
            check=True,
        )


def test_no_password_is_kept_or_shown_anywhere(
    plant: Plant, s3: str, databases: dict[str, str | None]
) -> None:
    login = PASSWORDS["PREFECT_SERVER_API_AUTH_STRING"].encode()
    secrets = [text.rpartition(":")[2].encode() for text in PASSWORDS.values()]
    secrets.append(base64.b64encode(login))
    kept = {str(file): file.read_bytes() for file in plant.folder.rglob("*") if file.is_file()}
    assert {"mlflow-server.log", "server.log", "worker.log", "trigger.log"} <= {
        Path(name).name for name in kept
    }
    kept |= objects(s3)
    kept |= {url: dump(plant, url) for url in databases.values() if url is not None}
    for process in psutil.process_iter(["cmdline"]):
        kept[f"process {process.pid}"] = " ".join(process.info["cmdline"] or []).encode()
    assert any(b"mlflow.server" in content for name, content in kept.items() if "process" in name)
    assert [name for name, text in kept.items() if any(one in text for one in secrets)] == []


def dump(plant: Plant, url: str) -> bytes:
    programs = postgres_programs()
    assert programs is not None
    command = [str(programs / "pg_dump"), url]
    dumped = subprocess.run(command, env=plant.environment(), capture_output=True, check=True)
    assert b"COPY public." in dumped.stdout
    return dumped.stdout


def test_down_leaves_no_server(plant: Plant, urls: dict[str, str]) -> None:
    assert plant.run("down").returncode == 0
    assert healthy(urls) == [False, False]
    assert worker_service(plant.state).running() is None
