"""The aliases move together or not at all, at whatever step the process is killed."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_registries import NAME, aliases, made_record, new_version, pending_version
from made_stores import new_store
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from stillwatch.errors import TrackingError
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import lock_file
from stillwatch.tasks.promotion.alias import changing_champion, move_champion
from stillwatch.tasks.promotion.history import history, log_intent, open_intents
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.entries import milliseconds

TOP = Path(__file__).parents[3]
WRITES = (
    "create_run",
    "log_batch",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "set_terminated",
)
"""Every call of MLflow's client by which a promotion changes anything."""
STEPS = 8


class Killed(BaseException):
    """Stands for a kill: nothing after it is done."""


@pytest.fixture
def tracking(settings: Settings) -> Tracking:
    return new_store(settings)


@pytest.fixture
def two(tracking: Tracking, settings: Settings) -> tuple[int, int]:
    """Version 1 is champion, version 2 its challenger."""
    first = new_version(tracking)
    promote(tracking, settings, first, None)
    return first, pending_version(tracking, first)


def promote(
    tracking: Tracking, settings: Settings, to: int, champion: int | None, previous: Any = None
) -> None:
    with changing_champion(tracking, "plate", settings):
        move_champion(tracking, made_record(to, champion, previous))


def dies_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Let the client die before its ``step``-th write from now; the list names those made."""
    made: list[str] = []

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            made.append(name)
            if len(made) == step:
                raise Killed(name)
            return real(*arguments, **more)

        return call

    for name in WRITES:
        monkeypatch.setattr(MlflowClient, name, dying(name, getattr(MlflowClient, name)))
    return made


def test_the_first_champion_has_no_previous_and_the_second_has(
    tracking: Tracking, settings: Settings, two: tuple[int, int]
) -> None:
    first, second = two
    assert aliases(tracking) == {"champion": first, "previous": None, "challenger": second}
    promote(tracking, settings, second, first)
    assert aliases(tracking) == {"champion": second, "previous": first, "challenger": None}
    entries = history(tracking, "plate")
    assert [(e.record.from_version, e.record.to_version) for e in entries] == [(1, 2), (None, 1)]
    assert {entry.state for entry in entries} == {"done"}
    tags = tracking.client.get_model_version(NAME, str(second)).tags
    assert tags["stillwatch.approval"] == "promoted"


def test_the_number_of_writes_of_a_promotion(
    tracking: Tracking,
    settings: Settings,
    two: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = dies_at(monkeypatch, 0)
    promote(tracking, settings, two[1], two[0])
    assert len(made) == STEPS, "the test below has to die at each of them"
    assert made[:2] == ["create_run", "log_batch"]
    assert made[2:4] == ["set_registered_model_alias"] * 2


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_promotion_killed_at_any_step_is_completed_by_the_next_command(
    tracking: Tracking, settings: Settings, two: tuple[int, int], step: int
) -> None:
    first, second = two
    with pytest.MonkeyPatch.context() as patch:
        dies_at(patch, step)
        with pytest.raises(Killed):
            promote(tracking, settings, second, first)
    assert aliases(tracking)["champion"] == (second if step > 4 else first)

    with changing_champion(tracking, "plate", settings):
        assert open_intents(tracking, "plate") == []
    intent_was_logged = step > 2
    done = {"champion": second, "previous": first, "challenger": None}
    untouched = {"champion": first, "previous": None, "challenger": second}
    assert aliases(tracking) == (done if intent_was_logged else untouched)
    entries = history(tracking, "plate")
    assert {entry.state for entry in entries} == {"done"}
    assert len(entries) == (2 if intent_was_logged else 1)


@pytest.mark.parametrize("step", [3, 5])
def test_a_recovery_that_is_killed_is_completed_by_the_next_command(
    tracking: Tracking, settings: Settings, two: tuple[int, int], step: int
) -> None:
    first, second = two
    for die_at in (step, 2):
        with pytest.MonkeyPatch.context() as patch:
            dies_at(patch, die_at)
            with pytest.raises(Killed):
                promote(tracking, settings, second, first)
    with changing_champion(tracking, "plate", settings):
        assert aliases(tracking) == {"champion": second, "previous": first, "challenger": None}
    assert len(history(tracking, "plate")) == 2


KILLED_WHILE_PROMOTING = """
import os, signal, sys
from pathlib import Path
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from made_registries import made_record
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import lock_file
from stillwatch.tasks.promotion.alias import changing_champion, move_champion
from stillwatch.tasks.tracking.client import open_tracking

settings = Settings(state_dir=Path(sys.argv[1]))
real = MlflowClient.set_registered_model_alias

def killed(self, name, alias, version):
    if alias == "champion":
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, name, alias, version)

MlflowClient.set_registered_model_alias = killed
tracking = open_tracking(settings)
with changing_champion(tracking, "plate", settings):
    move_champion(tracking, made_record(2, 1))
"""


@pytest.mark.costly
def test_a_retraining_and_a_promotion_succeed_after_kill_9_between_the_two_aliases(
    tracking: Tracking, settings: Settings, two: tuple[int, int]
) -> None:
    path = os.pathsep.join([str(TOP), str(TOP / "src"), str(TOP / "tests" / "tasks")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED_WHILE_PROMOTING, str(settings.state_dir)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert aliases(tracking) == {"champion": 1, "previous": 1, "challenger": 2}
    assert tracking.close_dead_runs("plate") > 0, "a retraining closes what the dead left running"
    assert history(tracking, "plate")[0].state == "open"

    third = pending_version(tracking, 2)
    promote(tracking, settings, third, 2, 1)
    assert aliases(tracking) == {"champion": 3, "previous": 2, "challenger": None}
    states = [(e.record.to_version, e.state) for e in history(tracking, "plate")]
    assert states == [(3, "done"), (2, "done"), (1, "done")]


@pytest.mark.parametrize("change", ["moved", "deleted"])
def test_an_intent_is_cancelled_if_the_registry_has_changed_meanwhile(
    tracking: Tracking, settings: Settings, two: tuple[int, int], change: str
) -> None:
    first, second = two
    third = new_version(tracking)
    with pytest.MonkeyPatch.context() as patch:
        dies_at(patch, 4)
        with pytest.raises(Killed):
            promote(tracking, settings, second, first)
    if change == "moved":
        tracking.client.set_registered_model_alias(NAME, "champion", str(third))
    else:
        tracking.client.delete_model_version(NAME, str(second))
    with changing_champion(tracking, "plate", settings):
        pass
    champion = third if change == "moved" else first
    assert (aliases(tracking)["champion"], aliases(tracking)["previous"]) == (champion, None)
    entry = history(tracking, "plate")[0]
    assert (entry.record.to_version, entry.state) == (second, "cancelled")
    assert change in tracking.tags(entry.run_id)["stillwatch.reason"]


@pytest.mark.parametrize("host", ["another", socket.gethostname()])
def test_the_intent_of_another_running_process_is_waited_for(
    tracking: Tracking, settings: Settings, two: tuple[int, int], host: str, tmp_path: Path
) -> None:
    first, second = two
    lock = tmp_path / "of-another-process.lock"
    lock_file(lock)
    run_id = log_intent(tracking, made_record(second, first))
    tracking.log(run_id, tags={"stillwatch.host": host, "stillwatch.lock": str(lock)})
    ended = threading.Timer(1, tracking.fail_run, (run_id, "by the other process"))
    ended.start()
    with changing_champion(tracking, "plate", settings):
        pass
    ended.join()
    assert aliases(tracking)["champion"] == first
    assert history(tracking, "plate")[0].state == "cancelled"


def test_an_intent_that_another_machine_abandoned_minutes_ago_is_completed(
    tracking: Tracking, settings: Settings, two: tuple[int, int]
) -> None:
    first, second = two
    begun = milliseconds() - 6 * 60 * 1000
    tags = {"stillwatch.host": "another"}
    run = tracking.client.create_run(tracking.experiment("plate"), begun, tags)
    record = made_record(second, first).model_dump(by_alias=True, exclude_none=True)
    tracking.log(run.info.run_id, params={"stillwatch.kind": "promotion", **record})
    with changing_champion(tracking, "plate", settings):
        assert aliases(tracking)["champion"] == second


def test_the_record_of_a_promotion_cannot_be_changed_and_its_tags_have_no_meaning(
    tracking: Tracking, settings: Settings, two: tuple[int, int]
) -> None:
    (before,) = history(tracking, "plate")
    tracking.log(before.run_id, tags={"mlflow.user": "mallory", "mlflow.runName": "another"})
    tracking.client.delete_tag(before.run_id, "stillwatch.kind")
    for key in ("to", "from", "who", "answer"):
        with pytest.raises(MlflowException, match="Changing param values is not allowed"):
            tracking.client.log_param(before.run_id, key, "7")
    assert history(tracking, "plate") == [before]


def test_a_damaged_intent_is_cancelled_and_a_damaged_history_is_refused(
    tracking: Tracking, settings: Settings, two: tuple[int, int]
) -> None:
    run_id = tracking.start_run("plate", "promotion", {})
    tracking.log(run_id, params={"stillwatch.kind": "promotion", "to": "nothing"})
    with changing_champion(tracking, "plate", settings):
        assert aliases(tracking)["champion"] == two[0]
    assert tracking.client.get_run(run_id).info.status == "FAILED"
    assert len(history(tracking, "plate")) == 1
    tracking.end_run(run_id, "FINISHED")
    with pytest.raises(TrackingError, match=f"promotion in run {run_id} .* is damaged"):
        history(tracking, "plate")
