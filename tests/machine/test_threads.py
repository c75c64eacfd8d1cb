"""Threads of the computing libraries: which cores count, and whose setting wins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stillwatch.machine.threads import thread_count, thread_environment, usable_cores

SHOW = """
import os, subprocess, sys
from stillwatch.machine.threads import set_thread_policy

set_thread_policy()
set_thread_policy({first})
import torch

child = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
print(torch.get_num_threads(), int(subprocess.check_output(child)), os.environ["GOMP_SPINCOUNT"])
set_thread_policy({then})
print(torch.get_num_threads())
"""


@pytest.fixture
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    return root


def test_every_cpu_of_the_affinity_counts_without_siblings_and_quota(
    tmp_path: Path, four_cpus: None
) -> None:
    assert usable_cores(tmp_path) == 4


def test_two_cpus_of_one_physical_core_count_once(tmp_path: Path, four_cpus: None) -> None:
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    root = _write(
        tmp_path, {topology.format(cpu): f"{cpu % 2},{cpu % 2 + 2}\n" for cpu in range(4)}
    )
    assert usable_cores(root) == 2


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/plant/line\n",
            "sys/fs/cgroup/plant/line/cpu.max": "max 100000\n",
            "sys/fs/cgroup/plant/cpu.max": "250000 100000\n",
        },
        {
            "proc/self/cgroup": "3:memory:/plant\n2:cpu,cpuacct:/plant\n0::/\n",
            "sys/fs/cgroup/cpu/plant/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/plant/cpu.cfs_period_us": "50000\n",
        },
        {
            "proc/self/cgroup": "1:cpu:/docker/of-the-host\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2, of a parent", "v1", "v1, in a container"],
)
def test_the_quota_of_the_cgroup_limits_the_cores(
    tmp_path: Path, four_cpus: None, files: dict[str, str]
) -> None:
    assert usable_cores(_write(tmp_path, files)) == 2


@pytest.mark.parametrize(("quota", "cores"), [("-1", 4), ("50000", 1)])
def test_no_quota_and_less_than_one_core(
    tmp_path: Path, four_cpus: None, quota: str, cores: int
) -> None:
    group = {
        "proc/self/cgroup": "1:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": f"{quota}\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cores(_write(tmp_path, group)) == cores


def test_what_the_user_has_set_stays() -> None:
    theirs = {"OMP_NUM_THREADS": "7", "GOMP_SPINCOUNT": "5"}
    assert theirs.items() <= thread_environment(theirs).items()
    assert "GOMP_SPINCOUNT" not in thread_environment({"OMP_WAIT_POLICY": "ACTIVE"})


@pytest.mark.parametrize(("said", "count"), [("5", 5), ("4,2", 4), ("many", usable_cores())])
def test_other_libraries_get_as_many_threads_as_openmp(
    monkeypatch: pytest.MonkeyPatch, said: str, count: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert thread_count() == count


@pytest.mark.parametrize(
    ("user", "said"),
    [({}, "1 1 10000\n2\n"), ({"OMP_NUM_THREADS": "1"}, "1 1 10000\n1\n")],
    ids=["the setting", "the user's variable"],
)
def test_threads_of_torch_and_of_child_processes(user: dict[str, str], said: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in thread_environment({})}
    shown = subprocess.check_output(
        [sys.executable, "-c", SHOW.format(first=1, then=2)], env=environment | user, text=True
    )
    assert shown == said
