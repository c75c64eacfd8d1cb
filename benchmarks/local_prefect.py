"""A local Prefect server that ends with the benchmark."""

from collections.abc import Iterator
from contextlib import contextmanager

from stillwatch.flows.servers.prefect_server import local_server, prefect_api
from stillwatch.settings import Settings


@contextmanager
def local_prefect(settings: Settings) -> Iterator[None]:
    """Make this process use a Prefect server of the settings' state folder; stop it at the end."""
    try:
        with prefect_api(settings):
            yield
    finally:
        local_server(settings).stop()
