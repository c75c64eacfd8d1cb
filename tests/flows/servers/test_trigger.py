"""Which runs the trigger starts, and when it starts another one for the same work."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from made_stores import new_store
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Running

from stillwatch.errors import ServerError
from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.flows.servers.trigger_process import RunStarter, Trigger
from stillwatch.flows.servers.work import Work, images_to_admit, scores_to_test
from stillwatch.inference.score_log import LoggedImage, open_score_log
from stillwatch.settings import InboxSettings, Settings, load_settings
from stillwatch.tasks.inbox.announcements import add, forget

MINUTE = 60.0


@flow
def chore(item: str) -> None:
    """Nobody runs it: its states are set as a worker and an engine set them."""


class Plant:
    """Runs of the deployment ``chore``, a trigger, and its clock."""

    def __init__(self, client: SyncPrefectClient, deployment: UUID, item: str) -> None:
        self._client = client
        self._deployment = deployment
        self.work = Work("chore", "one file", {"item": item})
        self.clock = 0.0
        self.restart()

    def restart(self) -> None:
        self._starter = RunStarter(lambda: self.clock)

    def look(self, *, minutes_later: float = 0.0, stamp: str = "one file") -> int:
        """Find work; how many runs there are then."""
        self.clock += 60 * minutes_later
        self._starter.start(replace(self.work, stamp=stamp))
        return len(self.runs())

    def end(self, state: State[None]) -> None:
        """Set the state of the newest run."""
        self._client.set_flow_run_state(self.runs()[0].id, state, force=True)

    def runs(self) -> list[FlowRun]:
        mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self._deployment]))
        found = self._client.read_flow_runs(
            flow_run_filter=mine, sort=FlowRunSort.EXPECTED_START_TIME_DESC
        )
        return [run for run in found if run.parameters == self.work.parameters]


@pytest.fixture
def plant(prefect_server: Settings, request: pytest.FixtureRequest) -> Iterator[Plant]:
    with prefect_api(prefect_server), get_client(sync_client=True) as client:
        deployment = chore.to_deployment("chore").apply()
        yield Plant(client, deployment, request.node.name)


@pytest.mark.servers
@pytest.mark.xdist_group("prefect")
class TestRuns:
    def test_one_run_is_started_for_the_same_work_and_one_more_when_there_is_more_to_do(
        self, plant: Plant
    ) -> None:
        assert [plant.look(minutes_later=10) for _ in range(3)] == [1, 1, 1]
        assert plant.look(stamp="two files") == 1, "the first run has not ended"
        plant.end(Running())
        assert plant.look(stamp="two files") == 1
        plant.end(Completed())
        assert plant.look(stamp="two files") == 2
        plant.end(Completed())
        assert plant.look(stamp="two files", minutes_later=9999) == 2

    def test_work_whose_run_failed_is_started_again_later_and_later(self, plant: Plant) -> None:
        assert plant.look() == 1
        plant.end(Failed())
        assert [plant.look(minutes_later=minutes) for minutes in (4, 2)] == [1, 2]
        plant.end(Failed())
        assert [plant.look(minutes_later=minutes) for minutes in (9, 2)] == [2, 3]
        plant.end(Completed())
        assert plant.look(minutes_later=9999) == 3

    def test_after_a_restart_no_work_is_started_a_second_time(self, plant: Plant) -> None:
        plant.look()
        plant.restart()
        assert plant.look() == 1
        plant.end(Completed())
        plant.restart()
        assert plant.look() == 1

    def test_a_missing_deployment_is_named(self, plant: Plant) -> None:
        plant.work = replace(plant.work, flow="other")
        with pytest.raises(ServerError, match=r"no deployment other/other\. Name it in prefect"):
            plant.look()

    def test_runs_are_some_time_apart(self, plant: Plant) -> None:
        plant.work = replace(plant.work, seconds_between=5 * MINUTE)
        assert plant.look() == 1
        plant.end(Completed())
        assert plant.look(minutes_later=4, stamp="two files") == 1
        assert plant.look(minutes_later=2, stamp="two files") == 2


def test_without_a_prefect_server_the_trigger_goes_on_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("inbox: {settle_seconds: 0}\n")
    new_store(load_settings(params))
    image = tmp_path / "inbox" / "bolt" / "good" / "1.png"
    image.parent.mkdir(parents=True)
    image.touch()
    trigger = Trigger(params)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        for _ in range(2):
            trigger.poll()
    said = [line.message for line in caplog.records if line.name == Trigger.__module__]
    assert sum(line.startswith("run of ingest: ") for line in said) == 1, said


def test_an_unexpected_error_is_logged_with_its_traceback_and_the_trigger_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trigger = Trigger(Path("\0"))  # ValueError: embedded null byte
    for _ in range(2):
        trigger.poll()
    (line,) = (one for one in caplog.records if one.name == Trigger.__module__)
    assert line.exc_info is not None


def test_images_are_to_be_admitted_when_they_lie_still_or_wait_for_their_announcement(
    tmp_path: Path,
) -> None:
    inbox = InboxSettings(path=tmp_path / "inbox", settle_seconds=0)
    settings = Settings(state_dir=tmp_path / "state", inbox=inbox)
    assert images_to_admit(settings) == []
    image = inbox.path / "bolt" / "good" / "1.png"
    image.parent.mkdir(parents=True)
    image.touch()
    (first,) = images_to_admit(settings)
    assert images_to_admit(settings) == [first]
    image.with_name("2.png").touch()
    (second,) = images_to_admit(settings)
    assert (second.flow, second.parameters) == ("ingest", {})
    assert second.stamp != first.stamp
    busy = settings.model_copy(update={"inbox": InboxSettings(path=inbox.path, settle_seconds=60)})
    assert images_to_admit(busy) == []
    add("bolt", "train/good/0.png", settings.state_dir)
    assert len(images_to_admit(busy)) == 1
    forget(["bolt"], settings.state_dir)
    assert images_to_admit(busy) == []


def test_scores_are_to_be_tested_when_images_were_inspected_since(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert scores_to_test(settings) == []
    row = LoggedImage(1, None, "0" * 32, 0.0, 0.0, 1.0, 0.5, "pass")
    with open_score_log(settings) as service:
        service.append("bolt", [row])
        first = scores_to_test(settings)
        with open_score_log(settings) as watch:
            watch.read_scores("bolt", 1)
            assert scores_to_test(settings) == first
        assert scores_to_test(settings) == first
        service.append("bolt", [row])
        second = scores_to_test(settings)
    assert [work.flow for work in (*first, *second)] == ["watch", "watch"]
    assert first != second
