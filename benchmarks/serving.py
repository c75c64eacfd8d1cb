"""How fast ``stillwatch serve`` answers, and whether a new champion costs any request.

Starts the service in a process of its own over a registry, and sends it the images of a folder from
this one: with 1, 4 and 16 clients, each of which waits for its answer before it sends the next
image, and then with 4 clients while the alias ``champion`` moves to another version and back.
Prints a table and writes JSON. The scores are logged in a state folder of its own.

    .venv/bin/python -m benchmarks.serving CATEGORY --images DIR --other VERSION \
        --out results/serving.json
"""

import argparse
import http.client
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import torch
import yaml

from benchmarks.revision import commit, machine
from stillwatch.inference.inspector import find_images
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.registry.versions import (
    CHAMPION,
    fetch_bundle,
    model_name,
    resolve_version,
    version_with_alias,
)
from stillwatch.tasks.tracking.client import Tracking, open_tracking

CLIENTS = (1, 4, 16)
SWAP_CLIENTS = 4
SWAP_SECONDS = 20.0
"""Under load on each side of an exchange."""
POLL_SECONDS = 1.0
WARM_UP_SECONDS = 3.0
READY_SECONDS = 120.0


@dataclass(frozen=True)
class Service:
    """The service that is measured."""

    url: str
    process: psutil.Process


@dataclass
class Load:
    """What clients saw."""

    milliseconds: list[float] = field(default_factory=list)
    """Of every request that was answered."""
    failed: int = 0
    """Requests with another status than 200, with no reply, or with one that is no JSON."""
    versions: set[int] = field(default_factory=set)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of the service: what else the machine does hardly touches it."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("category")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--other", type=int, help="version to exchange the champion with")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load per line")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    settings = load_settings(given.params)
    tracking = open_tracking(settings)
    images = [file.read_bytes() for file in find_images([given.images])]
    own = settings.for_category(given.category)
    with served(own, tracking, given.category) as service:
        with under_load(service, given.category, images, clients=1):
            time.sleep(WARM_UP_SECONDS)
        rows = {}
        for clients in CLIENTS:
            with under_load(service, given.category, images, clients=clients) as load:
                time.sleep(given.seconds)
            rows[f"{clients} clients"] = load
        if given.other is not None:
            with under_load(service, given.category, images, clients=SWAP_CLIENTS) as load:
                exchange_twice(tracking, given.category, given.other)
            rows[f"{SWAP_CLIENTS} clients, two exchanges"] = load
    result = report(tracking, given.category, images, rows)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    heads = ("p50 ms", "p95 ms", "images/s", "CPU ms", "requests", "failed")
    print(f"{'':26}" + "".join(f"{head:>10}" for head in heads))
    for name, row in result["load"].items():
        figures = (row["p50_ms"], row["p95_ms"], row["images_per_second"], row["cpu_ms_per_image"])
        cells = (*(f"{figure:.1f}" for figure in figures), row["requests"], row["failed"])
        print(f"{name:26}" + "".join(f"{cell:>10}" for cell in cells))


@contextmanager
def served(settings: Settings, tracking: Tracking, category: str) -> Iterator[Service]:
    """The service, once it is ready; its scores do not go to the log of the real line."""
    with tempfile.TemporaryDirectory(prefix="stillwatch-serving-") as folder:
        params = Path(folder) / "params.yaml"
        params.write_text(yaml.safe_dump(service_settings(settings, tracking)), encoding="utf-8")
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from stillwatch.flows.cli import main; main()"),
                *("--params", str(params), "serve", category, "--port", "0"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url = str(process.stdout and process.stdout.readline()).split()[2].rstrip(",")
            wait_until_ready(url)
            yield Service(url, psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def wait_until_ready(url: str) -> None:
    """Wait for the models; the service itself has said what is wrong if they do not come."""
    deadline = time.monotonic() + READY_SECONDS
    while ask(url, "GET", "/ready").status != 200:
        if time.monotonic() > deadline:
            raise SystemExit(f"{url} was not ready within {READY_SECONDS:.0f} s")
        time.sleep(0.2)


def service_settings(settings: Settings, tracking: Tracking) -> dict:
    """The same service, with a state folder of its own and a quick eye for new champions."""
    serving = settings.serving.model_dump() | {"poll_seconds": POLL_SECONDS}
    return {
        "tracking": {"uri": tracking.uri},
        "training": {"device": settings.training.device},
        "images": settings.images.model_dump(),
        "serving": serving,
    }


@contextmanager
def under_load(
    service: Service, category: str, images: Sequence[bytes], *, clients: int
) -> Iterator[Load]:
    """Let clients send images, each the next one when it has its answer, as long as this lasts.

    What a client raises is raised again at the end.
    """
    load, stop = Load(), threading.Event()
    with ThreadPoolExecutor(clients) as pool:
        working = begin(pool, service.url, category, images, clients, load, stop)
        began, cpu = time.perf_counter(), cpu_seconds(service)
        try:
            yield load
        finally:
            stop.set()
            for client in working:
                client.result()
            load.seconds = time.perf_counter() - began
            load.cpu_seconds = cpu_seconds(service) - cpu


def cpu_seconds(service: Service) -> float:
    """That the service has computed since its start."""
    times = service.process.cpu_times()
    return float(times.user + times.system)


def exchange_twice(tracking: Tracking, category: str, other: int) -> None:
    """Move the alias to another version and back, each time after a while."""
    name = model_name(category)
    first = version_with_alias(tracking, name, CHAMPION)
    try:
        time.sleep(SWAP_SECONDS)
        tracking.client.set_registered_model_alias(name, CHAMPION, str(other))
        time.sleep(SWAP_SECONDS)
    finally:
        tracking.client.set_registered_model_alias(name, CHAMPION, str(first))
    time.sleep(SWAP_SECONDS)


def begin(
    pool: ThreadPoolExecutor,
    url: str,
    category: str,
    images: Sequence[bytes],
    clients: int,
    load: Load,
    stop: threading.Event,
) -> list[Future[None]]:
    """Start the clients, each with a connection of its own."""

    def work(number: int) -> None:
        connection = http.client.HTTPConnection(str(urlsplit(url).netloc))
        for image in cycle([*images[number % len(images) :], *images[: number % len(images)]]):
            if stop.is_set():
                connection.close()
                return
            asked = time.perf_counter()
            answer = inspected(connection, category, image)
            if answer is None:
                load.failed += 1
            else:
                load.milliseconds.append(1000 * (time.perf_counter() - asked))
                load.versions.add(answer["model_version"])

    return [pool.submit(work, number) for number in range(clients)]


def inspected(
    connection: http.client.HTTPConnection, category: str, image: bytes
) -> dict[str, Any] | None:
    """What the service says of an image; None if it failed to."""
    try:
        headers = {"Content-Type": "image/png"}
        connection.request("POST", f"/inspect/{category}", image, headers)
        reply = connection.getresponse()
        body = reply.read()
        return json.loads(body) if reply.status == HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        connection.close()
        return None


def ask(url: str, method: str, path: str) -> http.client.HTTPResponse:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(str(urlsplit(url).netloc))
    connection.request(method, path)
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply


def report(
    tracking: Tracking, category: str, images: Sequence[bytes], rows: dict[str, Load]
) -> dict:
    """What is written: where it was measured, and a row per load."""
    champion = f"models:/{model_name(category)}@{CHAMPION}"
    info = fetch_bundle(tracking, *resolve_version(tracking, champion)).info
    return {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "detector": info.detector.name,
        "teacher": info.teacher.name,
        "geometry": str(info.geometry),
        "bytes_per_image": float(np.mean([len(image) for image in images])),
        "load": {name: figures(load) for name, load in rows.items()},
    }


def figures(load: Load) -> dict[str, Any]:
    """A row: times and throughput of what was answered, and how much was not."""
    answered = len(load.milliseconds)
    if not answered:
        raise SystemExit(f"none of {load.failed} requests was answered; the service's log says why")
    return {
        "p50_ms": float(np.median(load.milliseconds)),
        "p95_ms": float(np.quantile(load.milliseconds, 0.95)),
        "images_per_second": answered / load.seconds,
        "cpu_ms_per_image": 1000 * load.cpu_seconds / answered,
        "requests": answered + load.failed,
        "failed": load.failed,
        "model_versions": sorted(load.versions),
    }


if __name__ == "__main__":
    main()
