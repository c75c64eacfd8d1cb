"""Real stores on loopback for tests: a PostgreSQL cluster, and an S3 server with one bucket."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import EndpointConnectionError

USER = "stillwatch"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_programs() -> Path | None:
    """The folder of Debian's newest PostgreSQL; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgres(programs: Path, password: str, databases: tuple[str, ...]) -> Iterator[str]:
    """Run a cluster of which the user ``stillwatch`` owns the databases; yield host and port."""
    # Not under pytest's folder, which only its owner may enter: postgres refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="stillwatch-postgres-"))
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(folder, account.pw_uid, account.pw_gid)

    def run(program: str, *arguments: str, **more: Any) -> None:
        subprocess.run(
            [str(programs / program), *arguments],
            check=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **owner,
            **more,
        )

    secret = folder / "password"
    secret.write_text(password, encoding="utf-8")
    data, port = str(folder / "data"), free_port()
    run(
        *("initdb", "--pgdata", data, "--username", USER, "--pwfile", str(secret)),
        *("--auth", "scram-sha-256", "--no-sync"),
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
    run("pg_ctl", "start", "--wait", "-D", data, "-o", options, "-l", str(folder / "log"))
    try:
        for name in databases:
            run(
                *("createdb", "--host", "127.0.0.1", "--port", str(port), "--username", USER, name),
                env=os.environ | {"PGPASSWORD": password},
            )
        yield f"127.0.0.1:{port}"
    finally:
        run("pg_ctl", "stop", "--wait", "-D", data, "-m", "immediate")
        shutil.rmtree(folder)


@contextmanager
def s3_server(bucket: str, keys: dict[str, str]) -> Iterator[str]:
    """Run an S3 server with an empty bucket; yield its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name=keys["AWS_DEFAULT_REGION"],
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )
        _create_bucket(client, bucket)
        yield address
    finally:
        server.terminate()
        server.wait()


def _create_bucket(client: Any, bucket: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            return
        except EndpointConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
