"""The main job as a user runs it: real servers, real stores, real trainings, tiny images."""

import json
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from made_prefect import new_prefect_database
from PIL import Image
from tests.flows.conftest import SHARED, Plant
from tests.flows.started_services import client_of
from tests.flows.waiting import until

from stillwatch.flows.run_report import CategoryReport, RetrainReport
from stillwatch.tasks.evaluation.result import (
    CorrectedAnomaly,
    DetectorResult,
    FeedbackResult,
    GroupResult,
)
from stillwatch.tasks.liveness import os_user

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.xdist_group("retrain")]

ROOT = Path(__file__).parents[2]


def trained_runs(plant: Plant) -> list[Any]:
    client = client_of(plant)
    experiment = client.get_experiment_by_name("stillwatch/bolt")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if "stillwatch.fingerprint" in run.data.tags]


def commits(plant: Plant) -> int:
    (workspace,) = (plant.state / "workspaces").glob("images-*")
    count = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(count.stdout)


def test_after_a_kill_the_next_retraining_resumes_and_registers_once(
    plant: Plant, first: dict[str, Any]
) -> None:
    runs = [run for run in trained_runs(plant) if run.data.params["seed"] == "0"]
    stfpm = {run.info.status: run for run in runs if run.info.run_name == "stfpm"}
    assert sorted(run.info.status for run in runs) == ["FINISHED", "FINISHED", "KILLED"]
    assert stfpm["FINISHED"].data.tags["stillwatch.resumed"] == "true"
    client = client_of(plant)
    experiment = client.get_experiment_by_name("stillwatch/bolt")
    (model,) = client.search_logged_models([experiment.experiment_id])
    (version,) = client.search_model_versions("name = 'stillwatch-bolt'")
    assert model.artifact_location == version.source
    open_runs = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    assert list(open_runs) == []


def test_a_failing_category_stops_no_other(first: dict[str, Any]) -> None:
    bolt, nut = first["categories"]["bolt"], first["categories"]["nut"]
    assert (bolt["status"], bolt["model_version"], bolt["alias"]) == ("registered", 1, "champion")
    assert bolt["selected"] == "selected on test (best of 2)"
    assert set(bolt["detectors"]) == {"stfpm", "reverse_distillation"}
    assert nut["status"] == "failed"
    assert "train/good/003.png" in nut["reason"]
    assert nut["detectors"] == {}


def test_an_error_in_a_flow_is_one_sentence_and_prefects_lines_are_in_the_log(
    plant: Plant, first: dict[str, Any]
) -> None:
    done = plant.run_here("retrain", "--root", "images", "--category", "nut")
    assert done.returncode == 1
    sentence, named = done.stderr.splitlines()
    assert sentence.startswith("stillwatch: nut: ")
    log = (plant.folder / named.removeprefix("log: ")).read_text(encoding="utf-8")
    assert "prefect.flow_runs [-] Finished in state Failed" in log
    assert "Flow run" not in done.stdout


def test_the_report_has_the_documented_keys(first: dict[str, Any]) -> None:
    report = RetrainReport.model_validate(first)
    assert report.data_version is not None
    assert report.data_version.endswith(".dir")
    documented = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    models = (RetrainReport, CategoryReport, DetectorResult)
    for model in (*models, GroupResult, FeedbackResult, CorrectedAnomaly):
        for name in model.model_fields:
            assert f'"{name}"' in documented or f"`{name}`" in documented, name
    for seeds in first["categories"]["bolt"]["detectors"].values():
        assert list(seeds) == ["0"]
        result = seeds["0"]
        low, high = result["intervals"]["image_auroc"]
        assert 0 <= low <= result["metrics"]["image_auroc"] <= high <= 1
        assert result["alpha"] == 0.2
        assert result["n_calibration"] == 4
        assert not result["reused"]


def test_prefect_keeps_every_run_and_task(plant: Plant, first: dict[str, Any]) -> None:
    with sqlite3.connect(plant.state / "prefect" / "prefect.db") as database:
        flows = database.execute("select name, state_name from flow_run").fetchall()
        of_first = (
            "select task_run.name, task_run.state_name from task_run "
            "join flow_run on flow_run.id = task_run.flow_run_id where flow_run.name = ?"
        )
        tasks = dict(database.execute(of_first, ["retrain all"]).fetchall())
        keys = {row[0] for row in database.execute("select key from artifact")}
    assert ("retrain all", "Failed") in flows
    steps = ("examine bolt", "validate bolt", "register bolt", "judge bolt", "validate nut")
    for name in steps:
        assert tasks[name] == "Completed", tasks
    for detector in ("stfpm", "reverse_distillation"):
        assert tasks[f"train bolt/{detector}"] == "Completed"
        assert tasks[f"evaluate bolt/{detector}"] == "Completed"
    assert not any("nut/" in name for name in tasks), "nothing of nut may be trained"
    assert tasks["report bolt"] == "Completed"
    assert {"retraining", "validation-bolt", "validation-nut", "report-bolt"} <= keys


def test_the_registry_holds_the_winner_with_its_evidence(
    plant: Plant, first: dict[str, Any]
) -> None:
    client = client_of(plant)
    version = client.get_model_version_by_alias("stillwatch-bolt", "champion")
    tags = client.get_run(version.run_id).data.tags
    assert tags["stillwatch.data_version"] == first["data_version"]
    assert tags["stillwatch.selected_on_test"] == "selected on test (best of 2)"
    assert version.description is not None
    assert "Promise: of 100 new good parts" in version.description
    assert "artifacts/report.html?workflowType=machine_learning)" in version.description
    assert version.run_id is not None
    run = client.get_run(version.run_id)
    assert run.inputs.dataset_inputs[0].dataset.digest == first["data_version"]
    artifacts = {item.path for item in client.list_artifacts(version.run_id, "pictures")}
    assert {"pictures/gallery.png", "pictures/score_histogram.png"} <= artifacts
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "validation.json", "settings.json"} <= artifacts
    copy = plant.state / "reports" / f"bolt-{version.version}.html"
    assert "bolt: " in copy.read_text(encoding="utf-8")


def test_the_report_counts_the_images_of_each_part(first: dict[str, Any]) -> None:
    images = first["categories"]["bolt"]["images"]
    assert images["train"] + images["validation"] + images["calibration"] == 12
    assert (images["calibration"], images["test"]) == (4, 8)


def test_a_report_for_people_is_made_anew(plant: Plant, first: dict[str, Any]) -> None:
    page = plant.folder / "bolt.html"
    done = plant.run_here("report", "bolt", "--version", "1", "--out", str(page))
    assert done.returncode == 0, done.stderr
    winner = first["categories"]["bolt"]["winner"]
    assert f"bolt: {winner} registered as version 1" in page.read_text(encoding="utf-8")
    unknown = plant.run_here("report", "bold", "--out", str(page))
    assert unknown.returncode == 1
    assert "did you mean 'bolt'?" in unknown.stderr


def test_a_second_retraining_reuses_everything(plant: Plant, first: dict[str, Any]) -> None:
    before = commits(plant), len(trained_runs(plant))
    second = plant.retrain("--category", "bolt")
    bolt = second["categories"]["bolt"]
    assert (bolt["status"], bolt["model_version"]) == ("unchanged", 1)
    for name, seeds in bolt["detectors"].items():
        earlier = first["categories"]["bolt"]["detectors"][name]["0"]
        assert seeds == {"0": earlier | {"reused": True}}
    assert (commits(plant), len(trained_runs(plant))) == before


@pytest.fixture(scope="module")
def both(plant: Plant, first: dict[str, Any]) -> list[CategoryReport]:
    """What two retrainings at the same time say about bolt: ``stfpm`` with seeds 1 and 0."""
    arguments = ("retrain", "--root", "images", "--category", "bolt", "--seed", "1", "--seed", "0")
    trainings = plant.state / "trainings"
    with plant.start(*arguments, "--detector", "stfpm", "--report", "0.json") as other:
        until(lambda: bool(list(trainings.iterdir())) or other.poll() is not None)
        done = plant.run_here(*arguments, "--detector", "stfpm", "--report", "1.json")
        output, _ = other.communicate()
    assert (other.returncode, done.returncode) == (0, 0), output + done.stdout + done.stderr
    for said in (output, done.stdout):
        assert "means over the seeds 1, 0" in " ".join(said.split())
    reports = [(plant.folder / f"{number}.json").read_bytes() for number in range(2)]
    return [RetrainReport.model_validate_json(one).categories["bolt"] for one in reports]


@pytest.mark.slow
def test_two_retrainings_at_the_same_time_end_well_with_one_result(
    plant: Plant, first: dict[str, Any], both: list[CategoryReport]
) -> None:
    seeds = Counter(run.data.params.get("seed") for run in trained_runs(plant))
    assert seeds["1"] == 1
    versions = client_of(plant).search_model_versions("name = 'stillwatch-bolt'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    registered = client_of(plant).get_model_version("stillwatch-bolt", "2")
    tags = client_of(plant).get_run(str(registered.run_id)).data.tags
    assert (tags["stillwatch.seed"], tags["stillwatch.spread"][:20]) == (
        "1",
        "The first of 2 seeds",
    )
    assert sorted(one.status for one in both) == ["registered", "unchanged"]
    before = first["categories"]["bolt"]["detectors"]["stfpm"]["0"]
    for report in both:
        stfpm = report.detectors["stfpm"]
        assert (report.seed, set(stfpm)) == (1, {0, 1})
        assert stfpm[0].run_id == before["run_id"]
    with sqlite3.connect(plant.state / "prefect" / "prefect.db") as database:
        names = {row[0] for row in database.execute("select name from task_run").fetchall()}
    assert {"train bolt/stfpm seed 1", "evaluate bolt/stfpm seed 0"} <= names


@pytest.mark.slow
def test_a_second_winner_waits_is_promoted_by_a_person_and_rolled_back(
    plant: Plant, first: dict[str, Any], both: list[CategoryReport]
) -> None:
    (bolt,) = (one for one in both if one.status == "registered")
    assert (bolt.model_version, bolt.alias) == (2, "challenger")
    assert (bolt.answer, bolt.approval) == ("not_enough_evidence", "pending")
    assert bolt.comparison is not None
    assert "4 normals (10 needed)" in bolt.comparison
    assert "not_enough_evidence" in str(bolt.reason)
    listed = json.loads(plant.run_here("models", "--json").stdout)
    assert [(one["version"], one["approval"]) for one in listed] == [(2, "pending"), (1, None)]
    assert "pending" in plant.run_here("models").stdout

    shown = plant.run_here("promote", "bolt")
    assert shown.returncode == 0
    assert bolt.comparison in " ".join(shown.stdout.split())
    assert plant.run_here("promote", "bolt", "--approve").returncode == 2, "a reason is asked for"
    done = plant.run_here("promote", "bolt", "--approve", "--reason", "seen on line 3")
    assert done.returncode == 0, done.stderr
    assert "champion of bolt is now version 2 instead of version 1" in done.stdout
    again = plant.run_here("promote", "bolt", "--version", "2", "--approve", "--reason", "seen")
    assert again.returncode == 1
    assert "is the champion already" in " ".join(again.stderr.split())

    done = plant.run_here("rollback", "bolt", "--reason", "too many false alarms")
    assert done.returncode == 0, done.stderr
    assert "champion of bolt is again version 1 instead of version 2" in done.stdout
    assert client_of(plant).get_model_version_by_alias("stillwatch-bolt", "champion").version == 1
    entries = json.loads(plant.run_here("history", "bolt", "--json").stdout)
    assert [(e["kind"], e["from"], e["to"]) for e in entries] == [
        ("rollback", 2, 1),
        ("promotion", 1, 2),
        ("promotion", None, 1),
    ]
    assert (entries[1]["who"], entries[1]["reason"]) == (os_user(), "seen on line 3")
    assert entries[1]["data_version"] == first["data_version"]
    assert entries[2]["who"] == "stillwatch, automatic"
    table = plant.run_here("history", "bolt").stdout
    assert "too many" in table


@pytest.mark.slow
def test_the_process_runner_gives_the_same_figures(plant: Plant, first: dict[str, Any]) -> None:
    other = plant.folder / "other"
    new_prefect_database(other)
    plant.set_params(**SHARED, runtime={"task_runner": "process"}, state_dir=str(other))
    arguments = ("--category", "bolt", "--detector", "reverse_distillation", "--json")
    try:
        done = plant.run("retrain", "--root", "images", *arguments)
    finally:
        plant.set_params(**SHARED)
    (named,) = done.stderr.splitlines()
    log = (plant.folder / named.removeprefix("log: ")).read_text(encoding="utf-8")
    assert "prefect.flow_runs [-] Finished in state Completed" in log
    assert "[train bolt/reverse_distillation] Finished in state Completed" in log, "of a worker"
    assert "temporary server" not in log, "a worker does not know the server"
    ours = json.loads(done.stdout)["categories"]["bolt"]["detectors"]["reverse_distillation"]["0"]
    theirs = first["categories"]["bolt"]["detectors"]["reverse_distillation"]["0"]
    # Only this category is imported into the other state folder.
    timed = {"train_seconds", "ms_per_image", "run_id", "evaluated_at", "data_version"}
    assert not ours["reused"]
    assert {k: v for k, v in ours.items() if k not in timed} == {
        k: v for k, v in theirs.items() if k not in timed
    }


def test_the_registered_model_inspects_new_images(plant: Plant, first: dict[str, Any]) -> None:
    out = plant.folder / "results"
    (plant.folder / "fresh").mkdir()
    Image.new("RGB", (90, 70), "yellow").save(plant.folder / "fresh" / "odd.png")
    (plant.folder / "fresh" / "text.png").write_text("not an image")
    done = plant.run_here(
        *("inspect", "models:/stillwatch-bolt@champion", "fresh", "images/bolt/test"),
        *("--out", str(out)),
    )
    assert done.returncode == 1, "one file could not be inspected"
    assert "text.png" in done.stdout
    rows = (out / "inspection.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 + 8
    assert len(list(out.glob("*.png"))) == 9
