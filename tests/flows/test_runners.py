"""How many trainings go on at the same time, and with how many threads each."""

import os

import pytest

from stillwatch.flows.runners import with_slots
from stillwatch.settings import RuntimeSettings, Settings, TrainingSettings
from stillwatch.tasks.training.slots import training_threads


@pytest.mark.parametrize(
    ("runtime", "trainings", "slots", "threads"),
    [
        ({}, 4, 2, 2),
        ({}, 1, 1, 4),
        ({"threads": 3}, 4, 1, 3),
        ({"slots_per_device": 3}, 4, 3, 1),
    ],
    ids=["two share the cores", "one has all cores", "threads are set", "slots are set"],
)
def test_trainings_at_the_same_time_share_the_cores_of_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    runtime: dict[str, int],
    trainings: int,
    slots: int,
    threads: int,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    settings = Settings(
        runtime=RuntimeSettings.model_validate(runtime), training=TrainingSettings(device="cpu")
    )
    decided = with_slots(settings, trainings)
    assert (decided.runtime.slots, training_threads(decided)) == (slots, threads)


def test_one_training_at_a_time_where_the_user_has_set_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    settings = Settings(training=TrainingSettings(device="cpu"))
    assert with_slots(settings, 4).runtime.slots == 1
