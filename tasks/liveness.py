"""Which process it is: its number alone does not say, since the system uses numbers again."""

from pathlib import Path
from typing import NamedTuple

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TOLERANCE_SECONDS = 5.0


class ProcessIdentity(NamedTuple):
    """A process by number, start and boot: none of them moves when the machine's clock is set."""

    pid: int
    started: float
    """Clock ticks after the boot; of an unknown boot, seconds of the wall clock."""
    boot: str = ""
    """Which boot of which machine. Unknown where there is no ``/proc`` (macOS), and in what earlier
    versions have written."""

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity":
        """The identity of a living process.

        Raises:
            psutil.NoSuchProcess: there is none of this number.
        """
        boot = _boot()
        return cls(pid, _start(pid, boot), boot)

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        if self.boot not in ("", _boot()):
            return False
        try:
            apart = abs(_start(self.pid, self.boot) - self.started)
            if apart > (0 if self.boot else _TOLERANCE_SECONDS):
                return False
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def listens_on(self, port: int | None) -> bool:
        """Whether this process, and not somebody else's, or a child of it serves ``port``."""
        try:
            parent = psutil.Process(self.pid)
            sockets = [
                socket
                for process in (parent, *parent.children(recursive=True))
                for socket in process.net_connections("inet")
            ]
        except psutil.Error:
            return False
        return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in sockets)

    def stop(self) -> None:
        """Ask the process to end, with its children; kill what has not ended in 10 s."""
        if not self.is_alive():
            return
        parent = psutil.Process(self.pid)
        family = [parent, *parent.children(recursive=True)]
        parent.terminate()
        _, survivors = psutil.wait_procs(family, timeout=10)
        for process in survivors:
            process.kill()
        psutil.wait_procs(survivors, timeout=5)


def _boot() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""


def _start(pid: int, boot: str) -> float:
    if not boot:
        return float(psutil.Process(pid).create_time())
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    # Field 22; the second, a name in brackets, may hold anything.
    return float(status.rpartition(b")")[2].split()[22 - 3])
