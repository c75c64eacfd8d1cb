"""An ingest that fails or is killed after admission: the next one announces what it admitted."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.client.schemas import State

from flows.ingest import VERSIONED, ingest_images
from flows.prefect_server import prefect_api
from flows.worker import PARAMS_VARIABLE
from stillwatch.settings import load_settings
from tests.flows.conftest import Plant, make_workspace_plant, write_image
from tests.flows.started_services import Api
from tests.flows.waiting import until

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("ingest")]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """A plant with a Prefect server, whose inbox is read in this process."""
    plant = make_workspace_plant(tmp_path_factory.mktemp("ingest") / "line")
    plant.set_params(inbox={"settle_seconds": 0})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "GIT_CONFIG_NOSYSTEM", "DVC_SITE_CACHE_DIR"):
            patch.setenv(name, plant.environment()[name])
        yield plant


@pytest.fixture(scope="module")
def api(plant: Plant) -> Iterator[Api]:
    with prefect_api(load_settings(plant.folder / "params.yaml")):
        yield Api(plant)


def ingest(plant: Plant) -> State[None]:
    @flow(name="ingesting")
    def ingesting() -> State[None]:
        return ingest_images(load_settings(plant.folder / "params.yaml"))

    state: State[None] = ingesting(return_state=True)
    return state


def announced(api: Api) -> list[list[str]]:
    """The categories of each announcement."""
    wanted = {"filter": {"event": {"name": [VERSIONED]}, "order": "ASC"}}
    return [one["payload"]["categories"] for one in api.post("events/filter", wanted)["events"]]


def test_after_a_push_that_failed_the_next_ingest_announces(plant: Plant, api: Api) -> None:
    before = len(announced(api))
    write_image(plant.folder / "inbox" / "bolt" / "good" / "pushed.png", 5000)
    remote = plant.state / "dvc-remote"
    remote.write_text("no folder, so nothing can be pushed")
    failed = ingest(plant)
    assert (failed.name, "stillwatch-local" in str(failed.message)) == ("Failed", True), (
        failed.message
    )
    assert (plant.folder / "data" / "bolt" / "train" / "good" / "pushed.png").exists()
    assert len(announced(api)) == before

    remote.unlink()
    done = ingest(plant)
    assert done.message == (
        "0 of 0 files admitted; announced what an earlier run had admitted: bolt"
    )
    until(lambda: announced(api)[before:] == [["bolt"]])
    assert str(ingest(plant).message).startswith("nothing new")


def test_after_a_kill_the_next_ingest_announces(plant: Plant, api: Api) -> None:
    before = len(announced(api))
    write_image(plant.folder / "inbox" / "bolt" / "good" / "killed.png", 5001)
    process = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "from flows.deployed.images import ingest; ingest()",
        ],
        cwd=plant.folder,
        env=plant.environment()
        | {"PREFECT_API_URL": str(api.url), PARAMS_VARIABLE: str(plant.folder / "params.yaml")},
    )
    admitted = plant.folder / "data" / "bolt" / "train" / "good" / "killed.png"
    until(lambda: admitted.exists() or process.poll() is not None)
    assert process.poll() is None, "it ended before the fault"
    process.kill()
    process.wait()
    assert len(announced(api)) == before, "it was announced before the fault"

    done = ingest(plant)
    assert str(done.message).endswith("announced what an earlier run had admitted: bolt")
    until(lambda: announced(api)[before:] == [["bolt"]])


def test_a_category_that_fails_its_checks_is_announced_by_none(plant: Plant, api: Api) -> None:
    before = len(announced(api))
    folder = plant.folder / "inbox" / "nut" / "hole"
    write_image(folder / "0.png", 5002, spot=True)
    (folder / os.fsdecode(b"\xff.png")).touch()
    failed = ingest(plant)
    assert (failed.name, str(failed.message)[:24]) == ("Failed", "nut: has no good image t")
    assert str(ingest(plant).message).startswith("nothing new")
    assert len(announced(api)) == before
