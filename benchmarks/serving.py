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
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
import yaml

from benchmarks.revision import commit, machine
from stillwatch.inspection import find_images
from stillwatch.settings import Settings, load_settings
from tasks.registry import CHAMPION, fetch_bundle, model_name, version_with_alias
from tasks.tracking import Tracking, open_tracking

CLIENTS = (1, 4, 16)
SWAP_CLIENTS = 4
SWAP_SECONDS = 20.0
"""Under load on each side of an exchange."""
POLL_SECONDS = 1.0


@dataclass
class Load:
    """What clients saw."""

    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0
    versions: set[int] = field(default_factory=set)
    seconds: float = 0.0


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
    with served(settings, tracking, given.category) as url:
        put_under_load(url, given.category, images, clients=1, seconds=3)
        rows = {
            f"{clients} clients": put_under_load(
                url, given.category, images, clients=clients, seconds=given.seconds
            )
            for clients in CLIENTS
        }
        if given.other is not None:
            rows[f"{SWAP_CLIENTS} clients, two exchanges"] = exchange_under_load(
                url, given.category, images, tracking, given.other
            )
    result = report(tracking, given.category, images, rows)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{'':26}{'p50 ms':>8}{'p95 ms':>8}{'images/s':>10}{'requests':>10}{'failed':>8}")
    for name, row in result["load"].items():
        print(
            f"{name:26}{row['p50_ms']:>8.1f}{row['p95_ms']:>8.1f}{row['images_per_second']:>10.1f}"
            f"{row['requests']:>10}{row['failed']:>8}"
        )


@contextmanager
def served(settings: Settings, tracking: Tracking, category: str) -> Iterator[str]:
    """The service's URL, once it is ready; its scores do not go to the log of the real line."""
    with tempfile.TemporaryDirectory(prefix="stillwatch-serving-") as folder:
        params = Path(folder) / "params.yaml"
        params.write_text(yaml.safe_dump(service_settings(settings, tracking)), encoding="utf-8")
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from flows.cli import main; main()"),
                *("--params", str(params), "serve", "--category", category, "--port", "0"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url = str(process.stdout and process.stdout.readline()).split()[2].rstrip(",")
            while ask(url, "GET", "/ready").status != 200:
                time.sleep(0.2)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def service_settings(settings: Settings, tracking: Tracking) -> dict:
    """The same service, with a state folder of its own and a quick eye for new champions."""
    serving = settings.serving.model_dump() | {"poll_seconds": POLL_SECONDS}
    return {
        "tracking": {"uri": tracking.uri},
        "training": {"device": settings.training.device},
        "images": settings.images.model_dump(),
        "serving": serving,
    }


def put_under_load(
    url: str, category: str, images: Sequence[bytes], *, clients: int, seconds: float
) -> Load:
    """Let clients send images, each the next one when it has its answer."""
    load, stop = Load(), threading.Event()
    threads = begin(url, category, images, clients, load, stop)
    began = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - began
    return load


def exchange_under_load(
    url: str, category: str, images: Sequence[bytes], tracking: Tracking, other: int
) -> Load:
    """Move the alias to another version and back, with clients at work all the time."""
    name = model_name(category)
    first = version_with_alias(tracking, name, CHAMPION)
    load, stop = Load(), threading.Event()
    threads = begin(url, category, images, SWAP_CLIENTS, load, stop)
    began = time.perf_counter()
    try:
        for version in (other, first):
            time.sleep(SWAP_SECONDS)
            tracking.client.set_registered_model_alias(name, CHAMPION, str(version))
        time.sleep(SWAP_SECONDS)
    finally:
        tracking.client.set_registered_model_alias(name, CHAMPION, str(first))
        stop.set()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - began
    return load


def begin(
    url: str,
    category: str,
    images: Sequence[bytes],
    clients: int,
    load: Load,
    stop: threading.Event,
) -> list[threading.Thread]:
    """Start the clients, each with a connection of its own."""

    def work(number: int) -> None:
        connection = http.client.HTTPConnection(str(urlsplit(url).netloc))
        for image in cycle([*images[number % len(images) :], *images[: number % len(images)]]):
            if stop.is_set():
                connection.close()
                return
            asked = time.perf_counter()
            try:
                headers = {"Content-Type": "image/png"}
                connection.request("POST", f"/inspect/{category}", image, headers)
                reply = connection.getresponse()
                body = json.load(reply)
            except (OSError, http.client.HTTPException):
                load.failed += 1
                connection.close()
                continue
            load.milliseconds.append(1000 * (time.perf_counter() - asked))
            load.failed += reply.status != 200
            load.versions.add(body.get("model_version", 0))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    return threads


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
    info = fetch_bundle(tracking, f"models:/{model_name(category)}@{CHAMPION}").info
    return {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "detector": info.detector.name,
        "teacher": info.teacher.name,
        "image_size": info.image_size,
        "bytes_per_image": float(np.mean([len(image) for image in images])),
        "load": {
            name: {
                "p50_ms": float(np.median(load.milliseconds)),
                "p95_ms": float(np.quantile(load.milliseconds, 0.95)),
                "images_per_second": len(load.milliseconds) / load.seconds,
                "requests": len(load.milliseconds) + load.failed,
                "failed": load.failed,
                "model_versions": sorted(load.versions),
            }
            for name, load in rows.items()
        },
    }


if __name__ == "__main__":
    main()
