"""What the champions inspect, looked at from the command line and from Python."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_stores import new_store
from prefect import flow, get_client
from prefect.client.schemas import State
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import Event
from tests.flows.conftest import make_plant
from tests.flows.refusing_gateway import events_refused
from tests.flows.waiting import until
from tests.tasks.made_streams import drifting, inspected, make_champion, quiet

from stillwatch.errors import TrackingError
from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.flows.watch import DETECTED, watch_champions, watched_streams
from stillwatch.inference.score_log import LoggedImage, open_score_log
from stillwatch.settings import Settings
from stillwatch.tasks.drift import is_announced
from stillwatch.tasks.registry.versions import model_name
from stillwatch.tasks.tracking.client import Tracking

STREAMS = {"plate": drifting(301), "side_cover": quiet(400)}


def read_scores(category: str, version: int) -> Any:
    return inspected(STREAMS[category])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state")


@pytest.fixture
def tracking(settings: Settings, tmp_path: Path) -> Tracking:
    """Two champions, of which the first one's stream has drifted."""
    tracking = new_store(settings)
    for category in STREAMS:
        make_champion(tracking, tmp_path / category, category)
    return tracking


def test_all_champions_or_one_are_looked_at(tracking: Tracking, settings: Settings) -> None:
    both = watched_streams(settings, None, read_scores)
    assert [(one.category, one.alarm is not None) for one in both] == [
        ("plate", True),
        ("side_cover", False),
    ]
    assert [one.category for one in watched_streams(settings, "plate", read_scores)] == ["plate"]
    tracking.client.create_registered_model(model_name("washer"))
    with pytest.raises(TrackingError, match="washer has no champion to watch yet"):
        watched_streams(settings, "washer", read_scores)


def test_without_a_champion_there_is_nothing_to_watch(settings: Settings) -> None:
    new_store(settings)
    assert watched_streams(settings, None, read_scores) == []


def test_the_command_reads_the_score_log_and_says_so_by_its_exit_code(tmp_path: Path) -> None:
    plant = make_plant(tmp_path / "line")
    settings = Settings(state_dir=plant.state)
    version = make_champion(new_store(settings), tmp_path / "model", "plate")
    quiet_until_drift = drifting(301)

    def inspect(scores: Any) -> None:
        with open_score_log(settings) as log:
            log.append(
                "plate",
                [
                    LoggedImage(
                        model_version=version,
                        file=None,
                        md5="0" * 32,
                        brightness=120,
                        sharpness=55,
                        score=float(score),
                        p_value=0.5,
                        verdict="pass",
                    )
                    for score in scores
                ],
            )

    inspect(quiet_until_drift[:300])
    done = plant.run_here("watch")
    assert (done.returncode, done.stderr) == (0, "")
    assert "plate, version 1: no drift in 300 images" in done.stdout
    inspect(quiet_until_drift[300:])
    done = plant.run_here("watch", "plate", "--json")
    assert done.returncode == 1, done.stderr
    (said,) = json.loads(done.stdout)
    assert (said["images"], said["alarm"]["test"]) == (450, "martingale")


def announced() -> list[Event]:
    with get_client(sync_client=True) as client:
        wanted = EventFilter(event=EventNameFilter(name=[DETECTED]))
        return list(client.read_events(wanted, limit=50).events)


@pytest.mark.servers
@pytest.mark.xdist_group("prefect")
def test_an_alarm_that_the_server_does_not_take_is_announced_by_the_next_watch(
    tracking: Tracking, settings: Settings, prefect_server: Settings
) -> None:
    @flow(name="watching")
    def watching() -> State[None]:
        return watch_champions(settings, read_scores)

    with prefect_api(prefect_server):
        with events_refused():
            failed: State[None] = watching(return_state=True)
        assert failed.name == "Failed"
        refused = f"plate: the Prefect server did not accept the event {DETECTED}"
        assert refused in str(failed.message)
        assert not is_announced(tracking, "plate", 1)
        assert announced() == []

        assert watching(return_state=True).name == "Completed"
        assert is_announced(tracking, "plate", 1)
        until(lambda: bool(announced()))
        (event,) = announced()
        assert {"flow-run", "flow"} <= {one.role for one in event.related}
        with get_client(sync_client=True) as client:
            page = client.request("GET", f"/artifacts/{event.payload['artifact']['id']}").json()
        assert page["key"] == event.payload["artifact"]["key"] == "drift-plate"
        assert "data:image/png;base64," in page["data"]
