import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
import requests

from stillwatch.tasks.libraries.proxies import loopback_exceptions


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_loopback_never_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("no_proxy", "intranet.example")
    for variable, value in loopback_exceptions({"no_proxy": "intranet.example"}).items():
        monkeypatch.setenv(variable, value)
    with HTTPServer(("127.0.0.1", 0), _Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{server.server_port}/"
            assert httpx.get(url).status_code == 200
            assert requests.get(url, timeout=10).status_code == 200
        server.shutdown()


def test_exceptions_of_the_user_stay() -> None:
    made = loopback_exceptions({"NO_PROXY": "a.example, localhost", "no_proxy": "b.example"})
    assert made["no_proxy"] == made["NO_PROXY"] == "b.example,a.example,localhost,127.0.0.1,::1"
