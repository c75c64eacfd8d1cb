"""Runs whose process died: which are found, which are started again, and how often."""

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from made_prefect import new_prefect_database, prefect_server
from prefect import flow, get_client
from prefect.automations import Automation, AutomationCore
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.events.related import tags_as_related_resources
from prefect.states import Crashed, Pending, Running, Scheduled

from stillwatch.flows.servers.automations import REPEATABLE, TAG, ensure_automations
from stillwatch.settings import Settings

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("crash_recovery")]

BEAT = "prefect.flow-run.heartbeat"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The server does every 5 seconds what it else does every 30 or 60."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"))
    new_prefect_database(settings.state_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY", "PT5S")
        patch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "5")
        yield settings


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[SyncPrefectClient]:
    """Of a server with the automations, and runs whose machine then lost its power."""
    with prefect_server(settings):
        ensure_automations()
        with get_client(sync_client=True) as before:
            # What waits for a heartbeat has noted it by the time that a later one is stored.
            for number, (name, tags) in enumerate((("lost", [TAG]), ("of others", [])), start=1):
                run = before.create_flow_run(nothing, name=name, state=Running(), tags=tags)
                emit(BEAT, run.id, *tags)
                assert within(30, lambda seen=number: beats(before) == seen)
    with prefect_server(settings), get_client(sync_client=True) as after:
        yield after


def emit(event: str, run: UUID, *tags: str) -> None:
    """Of three hours ago."""
    emit_event(
        event,
        resource={"prefect.resource.id": f"prefect.flow-run.{run}"},
        related=tags_as_related_resources(tags),
        occurred=datetime.now(UTC) - timedelta(hours=3),
    )


def beats(client: SyncPrefectClient) -> int:
    """How many heartbeats the server has received."""
    wanted = {"filter": {"event": {"name": [BEAT]}}}
    return len(client.request("POST", "/events/filter", json=wanted).json()["events"])


@flow
def nothing() -> None:
    """Nobody runs it: its states are set as a worker and an engine set them."""


def within(seconds: float, happens: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def name_of(client: SyncPrefectClient, run: UUID) -> str | None:
    state = client.read_flow_run(run).state
    assert state is not None
    return state.name


def started_again(client: SyncPrefectClient, run: UUID, *states: State) -> bool:
    """Whether a run that goes through these states and then crashes is started again."""
    for state in (*states, Crashed()):
        client.set_flow_run_state(run, state)
    return within(5, lambda: name_of(client, run) == "AwaitingRetry")


def new_run(client: SyncPrefectClient, *tags: str) -> UUID:
    deployment = nothing.to_deployment("-".join(("of", *tags)), tags=list(tags)).apply()
    return client.create_flow_run_from_deployment(deployment).id


def test_a_run_that_was_lost_in_a_power_cut_is_found(client: SyncPrefectClient) -> None:
    runs = {run.name: run.id for run in client.read_flow_runs()}
    assert within(90, lambda: name_of(client, runs["lost"]) == "Crashed")
    assert name_of(client, runs["of others"]) == "Running"


def test_a_run_is_started_again_only_if_it_ran_and_three_times_in_all(
    client: SyncPrefectClient,
) -> None:
    run = new_run(client, REPEATABLE)
    assert not started_again(client, run, Pending()), "it would crash again and again"
    run = new_run(client, REPEATABLE)
    assert started_again(client, run, Pending(), Running())
    assert started_again(client, run, Pending(), Running())
    assert not started_again(client, run, Pending(), Running())
    run = new_run(client, REPEATABLE)
    assert started_again(client, run, Pending(), Running())
    assert not started_again(client, run, Pending()), "the checkout was moved meanwhile"


def test_a_run_that_must_not_be_repeated_is_not(client: SyncPrefectClient) -> None:
    assert not started_again(client, new_run(client, TAG), Pending(), Running())


def test_a_run_stuck_in_pending_is_rescheduled(client: SyncPrefectClient) -> None:
    (stuck,) = client.read_automations_by_name("stillwatch: reschedule runs stuck in Pending")
    stuck.trigger.within = timedelta(seconds=10)
    update(client, stuck)
    run, of_others = new_run(client, TAG), new_run(client)
    for each in (run, of_others):
        client.set_flow_run_state(each, Pending())
    assert within(90, lambda: name_of(client, run) == "Scheduled")
    assert name_of(client, of_others) == "Pending"
    ensure_automations()


def update(client: SyncPrefectClient, changed: Automation) -> None:
    core = AutomationCore.model_validate(changed.model_dump(exclude={"id", "owner_resource"}))
    client.update_automation(changed.id, core)


def test_automations_follow_their_definition_and_are_else_left_alone(
    client: SyncPrefectClient,
) -> None:
    def automations() -> dict[str, dict[str, object]]:
        found = client.request("POST", "/automations/filter", json={}).json()
        return {one["name"]: one for one in found}

    before = automations()
    assert len(before) == 3
    ensure_automations()
    assert automations() == before
    finds, _, restarts = sorted(client.read_automations(), key=lambda one: one.name)
    finds.trigger.within = timedelta(seconds=90)
    restarts.enabled = False
    for changed in (finds, restarts):
        update(client, changed)
    assert automations() != before
    ensure_automations()
    after = automations()
    assert {name: one["id"] for name, one in after.items()} == {
        name: one["id"] for name, one in before.items()
    }
    assert after[finds.name]["trigger"]["within"] == 300
    assert after[restarts.name]["enabled"] is False, "somebody has disabled it"


def test_one_run_of_a_schedule_is_planned_ahead(client: SyncPrefectClient) -> None:
    """As many as are made up for when the machine was off."""
    deployment = nothing.to_deployment("weekly", cron="0 3 * * 0").apply()

    def planned() -> int:
        return sum(run.deployment_id == deployment for run in client.read_flow_runs())

    assert within(90, lambda: planned() > 0)
    assert planned() == 1


def test_a_second_process_of_a_run_leaves_it_to_the_first(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from prefect import flow, get_client
        from prefect.engine import handle_engine_signals
        from prefect.flow_engine import run_flow
        from stillwatch.flows.run_settings import ensure_sole_process

        @flow
        def nothing():
            ensure_sole_process(Path(sys.argv[1]))
            print("works", flush=True)
            sys.stdin.readline()

        with get_client(sync_client=True) as client:
            run = client.read_flow_run(sys.argv[2])
        with handle_engine_signals(run.id):
            run_flow(nothing, flow_run=run)
        """
    )
    run = client.create_flow_run(nothing)

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(tmp_path), str(run.id)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def taken_for_dead() -> None:
        for state in (Crashed(), Scheduled()):
            client.set_flow_run_state(run.id, state, force=True)

    with start() as first:
        assert first.stdout is not None
        assert "works\n" in iter(first.stdout.readline, "")
        taken_for_dead()
        with start() as second:
            said, _ = second.communicate()
        assert second.returncode == 0, "or else the worker would report a crash"
        assert "This run is left to an earlier process of it, which is alive." in said
        assert "works\n" not in said
        assert client.read_flow_run(run.id).state_name != "Crashed"
        first.communicate("\n")
    assert client.read_flow_run(run.id).state_name == "Completed"
    taken_for_dead()
    with start() as alone:
        said, _ = alone.communicate("\n")
    assert "works\n" in said
