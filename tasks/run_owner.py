"""Which process a run belongs to, and whether it still lives."""

import os
import socket

import psutil

HOST, PROCESS = "stillwatch.host", "stillwatch.process"


def owner_tags() -> dict[str, str]:
    """The tags by which a run of this process is known again."""
    return {
        HOST: socket.gethostname(),
        PROCESS: f"{os.getpid()} since {psutil.Process().create_time():.0f}",
    }


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
