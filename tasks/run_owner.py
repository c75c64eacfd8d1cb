"""Which process a run belongs to, and whether it still lives."""

import os
import re
import socket
from collections.abc import Mapping

import psutil

from stillwatch.tasks.liveness import ProcessIdentity

HOST, PROCESS = "stillwatch.host", "stillwatch.process"

_IDENTITY = re.compile(r"(?P<pid>\d+) since (?P<started>\d+)(?: of (?P<boot>\S+))?")


def owner_tags() -> dict[str, str]:
    """The tags by which a run of this process is known again."""
    me = ProcessIdentity.of(os.getpid())
    boot = f" of {me.boot}" if me.boot else ""
    return {
        HOST: socket.gethostname(),
        PROCESS: f"{me.pid} since {me.started:.0f}{boot}",
    }


def may_live_elsewhere(tags: Mapping[str, str]) -> bool:
    """Whether a run with these tags may belong to another process, of any machine, that lives."""
    if tags.get(HOST) != socket.gethostname():
        return True
    process = tags.get(PROCESS, "")
    return process != owner_tags()[PROCESS] and is_alive(process)


def is_alive(tag: str) -> bool:
    """Whether the process of this machine that a tag ``PROCESS`` names still runs."""
    named = _IDENTITY.fullmatch(tag)
    if named is None:
        return True
    process = ProcessIdentity(int(named["pid"]), float(named["started"]), named["boot"] or "")
    try:
        return process.is_alive()
    except psutil.AccessDenied:
        return True
