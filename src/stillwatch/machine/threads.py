"""How many threads a process computes with, and how long an idle thread spins before it sleeps.

An OpenMP thread that has nothing to do spins, by default for so long that it takes the core away
from other work: two busy processes of two threads on two cores are then ten times slower than one.
``benchmarks/busy.py`` measures it. OpenMP and the BLAS libraries read the environment when they
are loaded, so a program calls :func:`set_thread_policy` before numpy or torch is imported.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
"""Read by OpenMP; MKL, OpenBLAS and torch follow it where their own variable is not set."""
SPIN = {
    "GOMP_SPINCOUNT": "10000",  # GNU's OpenMP, which torch's wheels bring
    "KMP_BLOCKTIME": "1",  # Intel's and LLVM's OpenMP; milliseconds
}
_CHOSEN = "STILLWATCH_THREADS"
"""The value of ``THREADS`` if stillwatch chose it; a value that the user set stays as it is."""


def set_thread_policy(threads: int | None = None) -> None:
    """Set the environment of this process and its children, and the threads of a loaded torch.

    A variable that the user has set keeps its value.

    Args:
        threads: ``runtime.threads`` of the settings; None: one for each of ``usable_cores``.
    """
    os.environ.update(thread_environment(os.environ, threads or usable_cores()))
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(thread_count())


def thread_environment(
    environment: Mapping[str, str], threads: int | None = None
) -> dict[str, str]:
    """The environment of a process, with the policy for what its user leaves open.

    Args:
        environment: without the policy, or with that of a parent process.
        threads: the number to compute with; None: the parent's, else ``usable_cores``.
    """
    filled = dict(environment)
    if "OMP_WAIT_POLICY" not in filled:
        filled = SPIN | filled
    if not has_own_threads(filled) and (threads is not None or THREADS not in filled):
        filled[THREADS] = filled[_CHOSEN] = str(threads or usable_cores())
    return filled


def has_own_threads(environment: Mapping[str, str]) -> bool:
    """Whether the user, and not stillwatch, has set the number of threads."""
    return environment.get(THREADS) != environment.get(_CHOSEN)


def thread_count() -> int:
    """Threads to give to a library that does not read ``OMP_NUM_THREADS`` itself."""
    outermost = os.environ.get(THREADS, "").partition(",")[0].strip()
    return int(outermost) if outermost.isdecimal() and int(outermost) > 0 else usable_cores()


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores that this process may use, by its CPU affinity and its cgroup's CPU quota.

    A quota is rounded down: a thread that is stopped by the quota makes all the others wait.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
    """
    cores = {_core(root, cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, int(min([len(cores), *_quotas(root)])))


def _core(root: Path, cpu: int) -> str:
    """The CPUs of one physical core share a list; the CPU itself where the system has no list."""
    siblings = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        return siblings.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that the cgroup of this process and each cgroup above it allow (cgroup v1 and v2)."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        # In a container the path may be that of the host, which does not exist under the mount.
        group_path = Path(path.lstrip("/"))
        for folder in (group_path, *group_path.parents):
            try:
                values = " ".join((mounted / folder / file).read_text() for file in files).split()
            except OSError:
                continue
            if values[0] not in ("max", "-1"):
                yield int(values[0]) / int(values[1])
