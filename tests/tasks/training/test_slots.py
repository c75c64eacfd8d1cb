"""Slots: never more trainings than there are, spread over devices, free when a holder dies.

On a CPU the slots share the cores.
"""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from stillwatch.settings import Settings
from stillwatch.tasks.training.slots import (
    evaluation_device,
    slots_per_device,
    spare_device,
    training_device,
    training_slot,
    training_threads,
)

HOLD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from stillwatch.tasks.training.slots import training_slot
    with training_slot(Path(sys.argv[1]), ["cpu"], 2) as device:
        print(device, time.monotonic(), flush=True)
        time.sleep(float(sys.argv[2]))
        print(time.monotonic(), flush=True)
    """
)


def holder(state: Path, seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(state), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


def test_three_trainings_on_two_slots_never_overlap_more_than_two(tmp_path: Path) -> None:
    spans = []
    for process in [holder(tmp_path, 1.0) for _ in range(3)]:
        device, began, ended = process.communicate()[0].split()
        assert device == "cpu"
        spans.append((float(began), float(ended)))
    assert most_at_once(spans) == 2


def test_a_killed_holder_frees_its_slot_at_once(tmp_path: Path) -> None:
    holders = [holder(tmp_path, 600) for _ in range(2)]
    for process in holders:
        assert process.stdout is not None
        process.stdout.readline()
    got: list[str] = []
    waiter = threading.Thread(target=lambda: got.append(_once(tmp_path)))
    waiter.start()
    time.sleep(0.5)
    assert got == []
    holders[0].kill()
    waiter.join(timeout=30)
    assert got == ["cpu"]
    for process in holders:
        process.kill()
        process.communicate()


def test_devices_are_filled_one_by_one(tmp_path: Path) -> None:
    devices = ["cuda:0", "cuda:1"]
    with (
        training_slot(tmp_path, devices, 2) as first,
        training_slot(tmp_path, devices, 2) as second,
        training_slot(tmp_path, devices, 2) as third,
    ):
        assert sorted((first, second)) == devices
        assert third == "cuda:0"


def test_an_evaluation_on_the_cpu_does_not_wait(tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path, "training": {"device": "cpu"}})
    with (
        training_device(settings),
        evaluation_device(settings) as evaluates,
        spare_device(settings) as looks,
    ):
        assert (evaluates, looks) == ("cpu", "cpu")


def test_jobs_on_a_gpu_never_exceed_its_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = Settings(state_dir=tmp_path)
    got: list[str] = []

    def evaluate() -> None:
        with evaluation_device(settings) as device:
            got.append(device)

    with training_device(settings) as first:
        with spare_device(settings) as looks:
            assert {first, looks} == {"cuda:0", "cuda:1"}
        with training_device(settings) as second, spare_device(settings) as looks:
            assert looks == "cpu"
            waiter = threading.Thread(target=evaluate)
            waiter.start()
            time.sleep(0.5)
            assert got == []
        waiter.join(timeout=30)
        assert got == [second]


@pytest.mark.parametrize(
    ("cores", "runtime", "slots", "threads"),
    [
        (1, {}, 1, 1),
        (2, {}, 2, 1),
        (4, {}, 2, 2),
        (4, {"threads": 1}, 2, 1),
        (4, {"threads": 3}, 1, 3),
        (4, {"slots_per_device": 1}, 1, 4),
        (4, {"slots_per_device": 3}, 3, 1),
    ],
)
def test_slots_of_a_cpu_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, runtime: dict[str, int], slots: int, threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    settings = Settings.model_validate({"runtime": runtime, "training": {"device": "cpu"}})
    assert (slots_per_device(settings), training_threads(settings)) == (slots, threads)


def test_one_training_at_a_time_where_the_user_has_set_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert slots_per_device(Settings.model_validate({"training": {"device": "cpu"}})) == 1


def _once(state: Path) -> str:
    with training_slot(state, ["cpu"], 2) as device:
        return device
