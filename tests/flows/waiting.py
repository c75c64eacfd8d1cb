"""Waiting for what another process does."""

import time
from collections.abc import Callable

import psutil


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 420
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended, also if nobody has asked for its exit code yet."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
