"""Running the service: its socket, its key, its threads and its shutdown."""

import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from stillwatch.errors import ServerError, SettingsError
from stillwatch.flows.servers.network import at_loopback
from stillwatch.inference.score_log import open_score_log
from stillwatch.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

KEY_VARIABLE = "STILLWATCH_SERVE_KEY"
_SHORTEST_KEY = 16
_KEEP_ALIVE_SECONDS = 75
"""A camera that sends an image every minute keeps its connection."""
_SHUTDOWN_SECONDS = 60


def serve(
    settings: Settings,
    *,
    categories: Collection[str] | None,
    host: str,
    port: int,
    announce: Callable[[str], None],
) -> None:
    """Inspect images over HTTP until SIGTERM or SIGINT; answer the requests in progress.

    Args:
        categories: which to serve; None: all categories that have a champion.
        host: name or address to listen on; beyond loopback, the environment variable
            ``STILLWATCH_SERVE_KEY`` must have a key.
        port: to listen on; 0: any free port.
        announce: called with the URL once the service listens.

    Raises:
        SettingsError: there is no such host, or the host needs a key.
        ServerError: the port is taken.
        TrackingError: the registry has no such category.
    """
    key = _key()
    with (
        _listening(host, port, key) as listener,
        open_score_log(settings) as log,
        # One thread for all models: torch uses every core, and its precision is a setting of the
        # whole process.
        ThreadPoolExecutor(1, "scoring") as compute,
    ):
        # These import MLflow, which takes seconds.
        from stillwatch.tasks.registry.versions import ensure_registered
        from stillwatch.tasks.tracking.client import open_tracking

        tracking = open_tracking(settings)
        for category in categories or ():
            ensure_registered(tracking, category)

        # These import torch, which takes seconds.
        from stillwatch.flows.serving.app import make_app
        from stillwatch.flows.serving.champions import Champions

        champions = Champions(tracking, settings, categories, compute, log)
        app = make_app(champions, settings.serving, key)
        announce(_url(listener))
        _run(app, listener)


def _key() -> str | None:
    key = os.environ.get(KEY_VARIABLE) or None
    if key is not None and len(key) < _SHORTEST_KEY:
        raise SettingsError(
            f"{KEY_VARIABLE} has {len(key)} characters, which can be guessed: use at least "
            f"{_SHORTEST_KEY}, for example from 'openssl rand -hex 16'."
        )
    return key


@contextmanager
def _listening(host: str, port: int, key: str | None) -> Iterator[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--host {host}: no such host ({error}). Name another.") from error
    family, _, _, _, address = found[0]
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            if key is None and not at_loopback(listener):
                raise SettingsError(
                    f"--host {host}: other machines can reach this address. Set the environment "
                    f"variable {KEY_VARIABLE} to a key that every request must send, or stay on "
                    "127.0.0.1."
                )
            listener.listen()
        except OSError as error:
            raise ServerError(
                f"port {port} on {host} cannot be listened on ({error.strerror}). Choose another "
                "with --port, or stop what uses it."
            ) from error
        yield listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _run(app: "FastAPI", listener: socket.socket) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("stillwatch.flows.serving").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    server = uvicorn.Server(config)
    # uvicorn handles signals only while it runs, and raises the signal again at its end. That would
    # kill the process before its threads have ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run(sockets=[listener])
