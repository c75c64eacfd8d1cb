"""What follows admission: a second look, a table and an announcement, in whatever run succeeds."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from made_champions import MadeCategory
from made_detectors import photograph, small
from made_stores import new_store
from PIL import Image
from prefect import flow
from prefect.client.schemas import State
from tests.flows.conftest import Plant, make_workspace_plant, write_image
from tests.flows.refusing_gateway import events_refused
from tests.flows.started_services import Api
from tests.flows.waiting import until

from stillwatch.bundle import INFO_FILE
from stillwatch.flows.ingest import VERSIONED, ingest_images
from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.flows.servers.worker import PARAMS_VARIABLE
from stillwatch.images.split import read_split_file
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.inbox.announcements import unannounced
from stillwatch.tasks.registry.versions import version_file
from stillwatch.tasks.tracking.client import BUNDLE

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("prefect")]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """A plant whose inbox is read in this process."""
    plant = make_workspace_plant(tmp_path_factory.mktemp("ingest") / "line")
    plant.set_params(inbox={"settle_seconds": 0})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "GIT_CONFIG_NOSYSTEM", "DVC_SITE_CACHE_DIR"):
            patch.setenv(name, plant.environment()[name])
        yield plant


@pytest.fixture(scope="module")
def api(prefect_server: Settings) -> Iterator[Api]:
    with prefect_api(prefect_server):
        yield Api(prefect_server.state_dir)


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
    plant.state.mkdir(exist_ok=True)
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


def test_a_misspelt_category_is_refused_before_its_images_are_split(plant: Plant, api: Api) -> None:
    def assigned() -> dict[str, str]:
        return read_split_file(plant.folder / "data.split.json").get("bolt", {})

    before, announced_before = assigned(), len(announced(api))
    write_image(plant.folder / "inbox" / "bolt" / "good" / "split.png", 5004)
    plant.set_params(inbox={"settle_seconds": 0}, categories={"blot": {}})
    failed = ingest(plant)
    assert "'blot' (did you mean 'bolt'?)" in str(failed.message)
    assert assigned() == before
    plant.set_params(inbox={"settle_seconds": 0})
    assert ingest(plant).name == "Completed"
    assert len(assigned()) > len(before)
    until(lambda: announced(api)[announced_before:] == [["bolt"]])


def test_after_a_kill_the_next_ingest_announces(plant: Plant, api: Api) -> None:
    before = len(announced(api))
    write_image(plant.folder / "inbox" / "bolt" / "good" / "killed.png", 5001)
    process = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "from stillwatch.flows.ingest import ingest; ingest()",
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


@pytest.fixture(scope="module")
def cover(plant: Plant) -> MadeCategory:
    """A category of the plant with a champion."""
    settings = small(load_settings(plant.folder / "params.yaml"))
    category = MadeCategory(plant.folder / "data" / "cover", new_store(settings), settings)
    category.make_champion(category.register(alpha=0.05))
    return category


def drop_good(plant: Plant, name: str, seed: int, *, scratched: bool = False) -> None:
    """Put an image of the category ``cover`` into the inbox as a good one."""
    folder = plant.folder / "inbox" / "cover" / "good"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(seed, scratched=scratched)).save(folder / name)


def latest_rows(api: Api) -> dict[str, dict[str, str]]:
    """The latest table of an ingest: file -> row."""
    wanted = {"artifacts": {"key": {"any_": ["ingest"]}}, "sort": "CREATED_DESC", "limit": 1}
    (table,) = api.post("artifacts/filter", wanted)
    return {row["file"]: row for row in json.loads(table["data"])}


def test_a_good_part_that_the_champion_rejects_is_shown_though_the_server_takes_no_event(
    plant: Plant, api: Api, cover: MadeCategory
) -> None:
    before = len(announced(api))
    drop_good(plant, "scratched.png", 9000, scratched=True)
    drop_good(plant, "sound.png", 9001)
    with events_refused():
        failed = ingest(plant)
    assert failed.name == "Failed"
    assert f"did not accept the event {VERSIONED}" in str(failed.message)
    came = ["train/good/scratched.png", "train/good/sound.png"]
    assert unannounced(plant.state) == {"cover": came}
    looks = {file: row["to look at"] for file, row in latest_rows(api).items()}
    assert looks["cover/good/sound.png"] == ""
    assert looks["cover/good/scratched.png"].startswith("rejected by models:/stillwatch-cover/1")

    done = ingest(plant)
    assert str(done.message).endswith("announced what an earlier run had admitted: cover")
    until(lambda: announced(api)[before:] == [["cover"]])
    assert unannounced(plant.state) == {}
    (row,) = latest_rows(api).values()
    assert row["admitted as"] == "train/good/scratched.png"
    assert row["to look at"] == looks["cover/good/scratched.png"]
    said = "cover/train/good/scratched.png came as a good part and models:/stillwatch-cover/1 "
    until(lambda: sum(warning.startswith(said) for warning in api.warnings()) == 2)


def test_a_damaged_champion_holds_up_no_new_images(
    plant: Plant, api: Api, cover: MadeCategory
) -> None:
    before = len(announced(api))
    info = f"artifacts/{BUNDLE}/{INFO_FILE}"
    version_file(cover.tracking, "stillwatch-cover", 1, info).write_text("no JSON")
    drop_good(plant, "next.png", 9002)
    failed = ingest(plant)
    assert failed.name == "Failed"
    said = "cover: its new good images are announced, but the champion could not inspect them: "
    assert str(failed.message).startswith(said)
    assert INFO_FILE in str(failed.message)
    until(lambda: announced(api)[before:] == [["cover"]])
    assert latest_rows(api)["cover/good/next.png"]["admitted as"] == "train/good/next.png"
    assert str(ingest(plant).message).startswith("nothing new")
