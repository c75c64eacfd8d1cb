"""The serving benchmark's clients, against an HTTP server that fails now and then."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from benchmarks.serving import Load, Service, figures, under_load

SLOW_FAILURE = 0.3
VERDICT = json.dumps({"model_version": 7}).encode()
Answer = tuple[int, bytes]


@contextmanager
def serving(answers: Sequence[Answer]) -> Iterator[tuple[Service, Callable[[], int]]]:
    """A service that gives these answers in turn, the failures among them slowly, then verdicts.

    With it comes a function that counts the requests so far.
    """
    left, asked = list(answers), []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                asked.append(self.path)
                status, body = left.pop(0) if left else (200, VERDICT)
            if (status, body) != (200, VERDICT):
                time.sleep(SLOW_FAILURE)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quietly."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            yield Service(url, psutil.Process()), lambda: len(asked)
        finally:
            server.shutdown()


def measured(answers: Sequence[Answer], clients: int = 2, requests: int = 30) -> Load:
    """What clients saw until the server had got that many requests."""
    with (
        serving(answers) as (service, asked),
        under_load(service, "plate", [b"image"], clients=clients) as load,
    ):
        while asked() < requests:
            time.sleep(0.01)
    return load


def test_failures_are_counted_apart_and_are_in_no_time() -> None:
    load = measured([(503, b'{"detail": "busy"}'), (200, b"<html>"), (500, b"no JSON")])
    found = figures(load)
    assert found["failed"] == 3
    assert found["requests"] == 3 + len(load.milliseconds) >= 30
    assert max(load.milliseconds) < 1000 * SLOW_FAILURE
    assert found["images_per_second"] == len(load.milliseconds) / load.seconds
    assert found["model_versions"] == [7]


def test_what_a_client_does_not_expect_fails_the_benchmark() -> None:
    with pytest.raises(KeyError, match="model_version"):
        measured([(200, b"{}")], requests=1)


def test_without_any_answer_there_are_no_figures() -> None:
    load = measured([(503, b"")] * 1000, requests=2)
    with pytest.raises(SystemExit, match=r"none of [2-9] requests was answered"):
        figures(load)
