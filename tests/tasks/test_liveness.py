"""A lock tells whether its owner is alive, however the owner died."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillwatch.tasks.liveness import (
    HOST,
    LOCK,
    hold,
    is_held,
    may_be_alive,
    may_live_elsewhere,
    owner_tags,
)

OWNER = """
import sys
from pathlib import Path
from stillwatch.tasks.liveness import owner_tags
print(owner_tags(Path(sys.argv[1]))["stillwatch.lock"], flush=True)
{then}
"""


def start_owner(folder: Path, then: str) -> "tuple[subprocess.Popen[str], Path]":
    """A process that takes its lock, and the file of the lock."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(then=then), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    return owner, Path(owner.stdout.readline().strip())


@pytest.fixture
def owner(tmp_path: Path) -> "Iterator[tuple[subprocess.Popen[str], Path]]":
    process, lock = start_owner(tmp_path, "input()")
    with process:
        yield process, lock
        process.kill()


def test_an_owner_is_alive_until_it_is_killed(owner: "tuple[subprocess.Popen[str], Path]") -> None:
    process, lock = owner
    tags = owner_tags(lock.parent) | {LOCK: str(lock)}
    assert may_be_alive(tags)
    assert may_live_elsewhere(tags)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lock.exists()
    assert not may_be_alive(tags), "it is dead, though nobody has asked for its exit code yet"
    assert not may_live_elsewhere(tags)


def test_an_owner_that_ends_removes_its_lock(
    owner: "tuple[subprocess.Popen[str], Path]",
) -> None:
    process, lock = owner
    process.communicate("\n")
    assert not lock.exists()
    assert not may_be_alive(owner_tags(lock.parent) | {LOCK: str(lock)})


@pytest.mark.parametrize(
    "then",
    [
        "import os, time; os.fork() or print(os.getpid(), flush=True); time.sleep(60)",
        "import subprocess, sys; code = 'import time; time.sleep(60)'\n"
        "print(subprocess.Popen([sys.executable, '-c', code], close_fds=False).pid, flush=True)\n"
        "input()",
    ],
    ids=["forked", "started"],
)
def test_a_child_that_outlives_the_owner_does_not_keep_the_lock(tmp_path: Path, then: str) -> None:
    process, lock = start_owner(tmp_path, then)
    with process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_held(lock)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        os.kill(child, 0)
        assert not is_held(lock)
        os.kill(child, signal.SIGKILL)


def test_this_process_and_owners_of_other_hosts(tmp_path: Path) -> None:
    own = owner_tags(tmp_path)
    assert own == owner_tags(tmp_path)
    assert may_be_alive(own)
    assert not may_live_elsewhere(own)
    assert may_live_elsewhere(own | {HOST: "another", LOCK: "nowhere"})
    assert may_live_elsewhere({HOST: own[HOST]}), "nothing is known about its owner"


def test_a_lock_is_held_by_one_process(owner: "tuple[subprocess.Popen[str], Path]") -> None:
    process, lock = owner
    assert not hold(lock)
    process.kill()
    process.wait()
    assert hold(lock)
    assert hold(lock), "this process holds it already"
