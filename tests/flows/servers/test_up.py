"""``stillwatch up``, ``status`` and ``down``, and what runs by itself in between."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from made_champions import MadeCategory
from made_detectors import small
from made_prefect import new_prefect_database
from made_stores import new_store
from PIL import Image
from prefect import flow
from prefect.client.schemas import State
from tests.flows.conftest import TINY, Plant, make_workspace_plant, write_image
from tests.flows.started_services import Api, client_of, processes_of, status, versions
from tests.flows.waiting import until
from tests.tasks.made_streams import drifting, inspected, make_champion, quiet

from stillwatch.errors import StorageError
from stillwatch.flows.servers.deployments import PREFECT_FILE
from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.flows.servers.service import answers
from stillwatch.flows.servers.work import BY_TAG
from stillwatch.flows.watch import DETECTED, ScoreReader, watch_champions
from stillwatch.inference.score_log import open_score_log
from stillwatch.settings import DriftSettings, Settings, load_settings

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.xdist_group("services")]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """A plant with everything up, whose category ``bolt`` has a champion."""
    folder = tmp_path_factory.mktemp("services")
    plant = make_workspace_plant(folder / "line")
    new_prefect_database(plant.state)
    plant.set_params(
        inbox={"settle_seconds": 0}, retrain=TINY["retrain"] | {"detectors": ["stfpm"]}
    )
    settings = small(Settings(state_dir=plant.state))
    category = MadeCategory(folder / "learnt" / "bolt", new_store(settings), settings)
    category.make_champion(category.register(alpha=0.2))
    started = plant.run("up")
    assert started.returncode == 0, started.stderr
    yield plant
    plant.run_here("down")


def test_all_of_it_runs_and_up_again_changes_nothing_and_names_a_left_over_deployment(
    plant: Plant,
) -> None:
    before = status(plant)
    assert [one["state"] for one in before.values()] == ["running"] * 4
    records = [
        *(plant.state / "mlflow-server.json", plant.state / "prefect" / "server.json"),
        *(plant.state / "prefect" / f"{name}.json" for name in ("worker", "trigger")),
    ]
    contents = [file.read_bytes() for file in records]
    file = plant.folder / PREFECT_FILE
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    left_over = content["deployments"].pop()["name"]
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    again = plant.run("up")
    assert again.returncode == 0, again.stderr
    assert f"has the deployment {left_over}, which" in " ".join(again.stderr.split())
    assert [file.read_bytes() for file in records] == contents
    assert status(plant) == before
    for name in ("MLflow", "Prefect"):
        with urllib.request.urlopen(before[name]["url"], timeout=60) as page:  # noqa: S310
            assert name in page.read().decode()


def test_the_forms_offer_the_categories(plant: Plant) -> None:
    found = Api(plant.state).post("deployments/filter", {})
    forms = {one["name"]: one["parameter_openapi_schema"]["properties"] for one in found}
    for name in ("promote", "rollback", "inspect"):
        assert forms[name]["category"]["enum"] == ["bolt"]
    assert forms["retrain"]["categories"]["items"]["enum"] == ["bolt"]
    assert (forms["promote"]["version"]["type"], forms["rollback"]["version"]["type"]) == (
        "integer",
        "integer",
    )


def test_new_images_become_a_new_version_with_nobody_touching_anything(plant: Plant) -> None:
    api = Api(plant.state)
    inbox = plant.folder / "arriving"  # all of it arrives at once
    write_image(inbox / "good" / "new.png", 5000)
    (inbox / "good" / "cut.png").write_bytes((inbox / "good" / "new.png").read_bytes()[:100])
    write_image(inbox / "spot" / "late.png", 5001, spot=True)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (20, 20, 30, 30))
    mask.save(inbox / "spot" / "late_mask.png")
    (plant.folder / "inbox").mkdir()
    inbox.rename(plant.folder / "inbox" / "bolt")
    ingested = api.wait_for(lambda run: run["name"] == "ingest")
    assert ingested["state"]["message"] == "3 of 4 files admitted"
    assert (plant.state / "quarantine" / "bolt" / "good" / "cut.png.reason.txt").exists()

    retrained = api.wait_for(lambda run: run["name"].startswith("retrain"))
    assert (retrained["name"], retrained["state_type"]) == ("retrain bolt", "COMPLETED"), retrained
    assert retrained["parameters"]["categories"] == ["bolt"]
    assert versions(plant) == [1, 2]


def test_a_folder_is_inspected_by_a_form(plant: Plant) -> None:
    api = Api(plant.state)
    for number in range(2):
        write_image(plant.folder / "to_inspect" / "bolt" / f"{number}.png", 6000 + number)
    done = api.run("inspect", category="bolt")
    assert done["state"]["message"].startswith("2 images: "), done["state"]
    with open_score_log(load_settings(plant.folder / "params.yaml")) as log:
        assert log.read_scores("bolt", 1)["file"].tolist() == ["0.png", "1.png"]
    (results,) = (plant.state / "inspections").iterdir()
    assert len(json.loads((results / "inspection.json").read_text())) == 2
    assert len(list(results.glob("*.png"))) == 2
    watched = api.wait_for(lambda run: run["name"] == "watch")
    assert watched["state"]["message"] == "1 watched; drifted: none"


def test_a_version_is_approved_by_a_form(plant: Plant) -> None:
    api = Api(plant.state)
    form = {"category": "bolt", "approver": "Eva", "reason": "seen on line 3"}
    promoted = api.run("promote", **form)
    assert promoted["state"]["message"] == "version 2 is the champion of bolt"
    (told,) = json.loads(plant.run_here("history", "bolt", "--json").stdout)
    assert (told["kind"], told["from"], told["to"]) == ("promotion", 1, 2)
    assert told["who"] == "Eva (not authenticated)"


def test_a_version_that_is_approved_by_a_tag_is_promoted_or_the_tag_is_refused(
    plant: Plant,
) -> None:
    """How the promotion itself goes, tests/flows/serving/test_champions.py shows."""
    api, mlflow = Api(plant.state), client_of(plant)
    mlflow.set_model_version_tag("stillwatch-bolt", "2", "stillwatch.approver", "Eva")
    mlflow.set_model_version_tag("stillwatch-bolt", "2", "stillwatch.approval", "approved")
    tried = api.wait_for(lambda run: run["parameters"].get("reason") == BY_TAG)
    assert (tried["name"], tried["parameters"]["approver"]) == ("promote bolt", "Eva")
    assert "version 2 of stillwatch-bolt is the champion already" in tried["state"]["message"]
    tags = mlflow.get_model_version("stillwatch-bolt", "2").tags
    assert tags["stillwatch.approval"] == "refused"


def test_the_approval_page_says_who_approved(plant: Plant) -> None:
    api, wanted = Api(plant.state), {"artifacts": {"key": {"any_": ["approval-bolt"]}}}

    def description() -> str:
        (page,) = api.post("artifacts/latest/filter", wanted)
        return str(page["description"])

    until(lambda: "Version 2 of bolt: Approved by Eva (not authenticated)" in description())


def test_drift_is_announced_once_and_retrained_on_where_the_policy_says_so(
    plant: Plant, tmp_path: Path
) -> None:
    """The champions are of another registry: retraining their category fails at once."""
    api = Api(plant.state)
    settings = Settings(state_dir=tmp_path / "state")
    streams = {"cover": drifting(301), "lid": quiet(400)}
    tracking = new_store(settings)
    for category in streams:
        make_champion(tracking, tmp_path / category, category)

    def read(category: str, version: int) -> pd.DataFrame:
        return inspected(streams[category])

    def unreadable(category: str, version: int) -> pd.DataFrame:
        if category == "cover":
            raise StorageError("no rows today.")
        return read(category, version)

    with prefect_api(Settings(state_dir=plant.state)):
        ask = watched(settings, read)
        assert ask.message == "2 watched; drifted: cover, version 1"
        assert watched(settings, read).message == ask.message, "it still has drifted"
        failed = watched(settings, unreadable)
        assert (failed.name, failed.message) == ("Failed", "cover: no rows today.")
        make_champion(tracking, tmp_path / "next", "cover")
        retrain = settings.model_copy(update={"drift": DriftSettings(on_alarm="retrain")})
        watched(retrain, read)
    # On a busy machine it may be taken for dead and started again.
    started = api.wait_for(
        lambda run: run["name"] == "retrain cover" and run["state_type"] != "CRASHED"
    )
    assert started["parameters"]["categories"] == ["cover"]
    assert "unknown category 'cover'" in started["state"]["message"]

    found = api.post("events/filter", {"filter": {"event": {"name": [DETECTED]}}})["events"]
    told = [(one["payload"]["version"], one["resource"]["stillwatch.on_alarm"]) for one in found]
    assert sorted(told) == [(1, "ask"), (2, "retrain")]
    assert found[0]["payload"]["alarm"]["test"] == "martingale"
    page, *_ = api.post("artifacts/filter", {"artifacts": {"key": {"any_": ["drift-cover"]}}})
    assert "data:image/png;base64," in page["data"]
    assert "(`cover/good`)" in page["data"]
    tables = api.post("artifacts/filter", {"artifacts": {"key": {"any_": ["drift"]}}})
    rows = [[row["category"] for row in json.loads(table["data"])] for table in tables]
    assert (rows.count(["cover", "lid"]), rows.count(["lid"])) == (3, 1)
    retrained = [run for run in api.post("flow_runs/filter", {}) if run["name"] == "retrain cover"]
    assert len(retrained) == 1, "only on_alarm: retrain retrains"


def watched(settings: Settings, read_scores: ScoreReader) -> State[None]:
    """Run the watch's flow here; its Prefect server is the plant's."""

    @flow(name="watching")
    def watching() -> State[None]:
        return watch_champions(settings, read_scores)

    state: State[None] = watching(return_state=True)
    return state


def test_down_leaves_no_process(plant: Plant) -> None:
    urls = [one["url"] for one in status(plant).values() if one["url"]]
    assert plant.run("down").returncode == 0
    assert not any(answers(f"{url}/health") for url in urls)
    assert processes_of(plant) == []
    assert {one["state"] for one in status(plant).values()} == {"not running"}
    assert plant.run_here("status").returncode == 1
    assert plant.run_here("down").returncode == 0
