"""Waiting for what another process does."""

import time
from collections.abc import Callable


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 420
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)
