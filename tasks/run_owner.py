"""Which process a run belongs to, and whether it still lives."""

import os
import socket
from collections.abc import Mapping

import psutil

HOST, PROCESS = "stillwatch.host", "stillwatch.process"


def owner_tags() -> dict[str, str]:
    """The tags by which a run of this process is known again."""
    return {
        HOST: socket.gethostname(),
        PROCESS: f"{os.getpid()} since {psutil.Process().create_time():.0f}",
    }


def may_live_elsewhere(tags: Mapping[str, str]) -> bool:
    """Whether a run with these tags may belong to another process, of any machine, that lives."""
    if tags.get(HOST) != socket.gethostname():
        return True
    process = tags.get(PROCESS, "")
    return process != owner_tags()[PROCESS] and is_alive(process)


def is_alive(tag: str) -> bool:
    """Whether the process of this machine that a tag ``PROCESS`` names still runs."""
    pid, _, started = tag.partition(" since ")
    if not (pid.isdigit() and started.isdigit()):
        return True
    try:
        return abs(psutil.Process(int(pid)).create_time() - int(started)) < 5
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
