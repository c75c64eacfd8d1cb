"""A plain HTTP client, one connection per request."""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    url: str, path: str, body: bytes | None = None, kind: str = "image/png", **headers: str
) -> Reply:
    """GET, or POST where there is a body."""
    connection = http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=300)
    try:
        named = headers if body is None else {"Content-Type": kind, **headers}
        connection.request("GET" if body is None else "POST", path, body, named)
        reply = connection.getresponse()
        return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
    finally:
        connection.close()
