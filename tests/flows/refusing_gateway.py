"""A gateway to the Prefect API that lets everything through but events."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from urllib.parse import urlsplit

from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, temporary_settings

_EVENTS = b"POST /api/events HTTP"
_REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextmanager
def events_refused() -> Iterator[None]:
    """Flows of this thread reach their Prefect server, which takes no events of theirs."""
    server = urlsplit(str(PREFECT_API_URL.value()))

    class Gateway(BaseRequestHandler):
        def handle(self) -> None:
            address = str(server.hostname), int(server.port or 80)
            with suppress(OSError), socket.create_connection(address) as there:
                Thread(target=_pass_on, args=(there, self.request), daemon=True).start()
                while data := self.request.recv(65536):
                    if data.startswith(_EVENTS):
                        self.request.sendall(_REFUSAL)
                        return
                    there.sendall(data)

    class Gateways(ThreadingTCPServer):
        daemon_threads = True

    with Gateways(("127.0.0.1", 0), Gateway) as gateways:
        Thread(target=gateways.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{gateways.server_address[1]}{server.path}"
        with temporary_settings({PREFECT_API_URL: url}):
            yield
        # Prefect sends a run's messages in the background, and drops those it cannot send.
        APILogHandler().flush()
        gateways.shutdown()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
