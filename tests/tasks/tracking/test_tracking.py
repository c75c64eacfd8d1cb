import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from made_stores import new_store
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric

from stillwatch.errors import StorageError, TrackingError
from stillwatch.settings import Settings, TrackingSettings
from stillwatch.tasks.registry.versions import champions, versions_tagged
from stillwatch.tasks.tracking.client import Tracking, open_tracking
from stillwatch.tasks.tracking.entries import figures, flattened, training_data
from stillwatch.tasks.training.losses import EpochLog

DIR_HASH = "0123456789abcdef0123456789abcdef.dir"


@pytest.fixture
def tracking(settings: Settings) -> Tracking:
    return new_store(settings)


def metrics_of(tracking: Tracking, run_id: str) -> dict[str, float]:
    return dict(tracking.client.get_run(run_id).data.metrics)


def test_the_default_store_is_in_the_state_folder_for_any_working_directory(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    tracking = new_store(settings)
    run_id = tracking.start_run("plate", "stfpm", {})
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    (evidence / "a.txt").write_text("a", encoding="utf-8")
    tracking.log_folder(run_id, evidence, "notes")
    kept = settings.state_dir / "mlflow"
    assert tracking.uri == f"sqlite:///{kept / 'mlflow.db'}"
    assert [path.name for path in kept.rglob("a.txt")] == ["a.txt"]
    assert list(elsewhere.iterdir()) == []


def test_runs_can_log_the_same_data_at_the_same_time(tracking: Tracking, tmp_path: Path) -> None:
    runs = [tracking.start_run("plate", f"run-{number}", {}) for number in range(8)]
    for version in range(5):
        data = training_data("plate", f"{version:032}.dir", tmp_path, {"train": 7})
        moment = Barrier(len(runs))

        def record(run_id: str, data: DatasetInput = data, moment: Barrier = moment) -> None:
            moment.wait()
            tracking.log_data(run_id, data)

        with ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(record, runs))
    for run_id in runs:
        assert len(tracking.client.get_run(run_id).inputs.dataset_inputs) == 5


def test_a_child_run_has_the_tag_of_its_parent(tracking: Tracking) -> None:
    parent = tracking.start_run("plate", "retraining", {})
    child = tracking.start_run("plate", "stfpm", {"stillwatch.method": "stfpm"}, parent)
    assert tracking.tags(child)["mlflow.parentRunId"] == parent
    assert tracking.tags(child)["stillwatch.method"] == "stfpm"
    assert tracking.experiment("plate") != tracking.experiment("cloth")


def test_values_beyond_the_limit_of_one_request_are_all_logged(tracking: Tracking) -> None:
    run_id = tracking.start_run("plate", "many", {})
    tracking.log(
        run_id,
        metrics=[Metric("loss", float(step), 0, step) for step in range(1500)],
        params={f"p{number}": number for number in range(250)},
        tags={f"t{number}": number for number in range(150)},
    )
    run = tracking.client.get_run(run_id)
    assert len(run.data.params) == 250
    assert sum(name.startswith("t") for name in run.data.tags) == 150
    assert len(tracking.client.get_metric_history(run_id, "loss")) == 1500


def test_the_data_version_is_logged_as_an_input_with_dvcs_hash(
    tracking: Tracking, tmp_path: Path
) -> None:
    run_id = tracking.start_run("plate", "stfpm", {})
    tracking.log_data(run_id, training_data("plate", DIR_HASH, tmp_path, {"train": 7}))
    (logged,) = tracking.client.get_run(run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("plate", DIR_HASH)
    assert str(tmp_path) in logged.dataset.source
    assert logged.dataset.profile == '{"train": 7}'


def test_runs_are_found_by_their_tags_newest_first(tracking: Tracking) -> None:
    first = tracking.start_run("plate", "one", {"stillwatch.fingerprint": "f"})
    second = tracking.start_run("plate", "two", {"stillwatch.fingerprint": "f"})
    tracking.start_run("plate", "other", {"stillwatch.fingerprint": "g"})
    tracking.start_run("cloth", "elsewhere", {"stillwatch.fingerprint": "f"})
    found = [
        run.info.run_id for run in tracking.find_runs("plate", {"stillwatch.fingerprint": "f"})
    ]
    assert found == [second, first]


def test_searches_return_the_results_of_all_pages(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_twos(search: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **what: search(*given, **what | {"max_results": 2})

    runs = [tracking.start_run("plate", f"run {number}", {}) for number in range(5)]
    names = [f"plate{number}" for number in range(5)]
    for name in names:
        tracking.experiment(name)
        tracking.client.create_registered_model(f"stillwatch-{name}")
        version = tracking.client.create_model_version(f"stillwatch-{name}", "nowhere", runs[0])
        tracking.client.set_registered_model_alias(version.name, "champion", version.version)
        tracking.client.set_model_version_tag(version.name, version.version, "is", "ours")
    tracking.client.create_registered_model("another")
    for what in ("runs", "experiments", "registered_models", "model_versions"):
        search = f"search_{what}"
        monkeypatch.setattr(MlflowClient, search, in_twos(getattr(MlflowClient, search)))
    assert [run.info.run_id for run in tracking.find_runs("plate", {})] == runs[::-1]
    assert tracking.categories() == ["plate", *names]
    assert champions(tracking) == dict.fromkeys(names, 1)
    assert len(versions_tagged(tracking, "is", "ours")) == 5


def test_threads_can_start_the_first_run_of_a_category_at_once(tracking: Tracking) -> None:
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda n: tracking.start_run("plate", f"run {n}", {}), range(6)))
    assert len(set(runs)) == 6
    assert len(tracking.find_runs("plate", {})) == 6


def test_runs_of_dead_processes_are_closed_and_living_ones_are_not(
    tracking: Tracking, tmp_path: Path
) -> None:
    (tmp_path / "free.lock").touch()
    locks = {"killed": tmp_path / "free.lock", "ended": tmp_path / "removed.lock"}
    runs = {
        name: tracking.start_run("plate", name, {"stillwatch.lock": str(lock)})
        for name, lock in locks.items()
    }
    runs["alive"] = tracking.start_run("plate", "alive", {})
    runs["far"] = tracking.start_run("plate", "far", {"stillwatch.host": "another"})
    assert tracking.close_dead_runs("plate") == 2
    status = {name: tracking.client.get_run(run).info.status for name, run in runs.items()}
    assert status == {"alive": "RUNNING", "far": "RUNNING", "killed": "KILLED", "ended": "KILLED"}


def test_a_failed_run_has_its_reason_and_an_interrupted_run_is_killed(tracking: Tracking) -> None:
    failed = tracking.start_run("plate", "a", {})
    killed = tracking.start_run("plate", "b", {})
    tracking.fail_run(failed, ValueError("the reason"))
    tracking.fail_run(killed, KeyboardInterrupt())
    assert tracking.tags(failed)["stillwatch.reason"] == "the reason"
    assert tracking.tags(killed)["stillwatch.reason"] == "KeyboardInterrupt"
    status = [tracking.client.get_run(run).info.status for run in (failed, killed)]
    assert status == ["FAILED", "KILLED"]


def test_a_missing_artifact_is_named(tracking: Tracking) -> None:
    run_id = tracking.start_run("plate", "stfpm", {})
    with (
        pytest.raises(TrackingError, match=f"could not download bundle of run {run_id}"),
        tracking.artifact(run_id, "bundle"),
    ):
        pass


def test_losses_are_logged_in_batches_each_exactly_once(tracking: Tracking) -> None:
    run_id = tracking.start_run("plate", "stfpm", {})
    losses = EpochLog(tracking, run_id, every_seconds=3600)
    for epoch in range(3):
        losses.add("student", epoch, 1.0 / (epoch + 1), 2.0)
    assert metrics_of(tracking, run_id) == {}
    losses.add("student", 2, 9.0, 9.0)
    losses.flush()
    losses.flush()
    history = tracking.client.get_metric_history(run_id, "student/train_loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


def test_a_training_survives_an_unreachable_store(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = new_store(settings)
    run_id = tracking.start_run("plate", "stfpm", {})
    gone = Tracking(f"sqlite:///{tmp_path / 'nowhere' / 'mlflow.db'}", tmp_path.as_uri(), tmp_path)
    (tmp_path / "nowhere").write_text("a file where a folder should be", encoding="utf-8")
    losses = EpochLog(gone, run_id, every_seconds=0)
    losses.add("student", 0, 1.0, 2.0)
    assert "The training goes on" in caplog.text
    losses._tracking = tracking
    losses.flush()
    assert metrics_of(tracking, run_id) == {
        "student/train_loss": 1.0,
        "student/validation_loss": 2.0,
    }


def test_an_unreachable_server_is_reported_in_one_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    down = settings.model_copy(update={"tracking": TrackingSettings(uri=uri)})
    with pytest.raises(TrackingError, match=r"server is up and that tracking\.uri") as caught:
        open_tracking(down)
    assert f"MLflow at {uri} could not be opened: no server answers there." in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_of_an_unknown_kind_is_refused(settings: Settings) -> None:
    wrong = settings.model_copy(update={"tracking": TrackingSettings(uri="carrier-pigeon://roof")})
    with pytest.raises(TrackingError, match="carrier-pigeon"):
        open_tracking(wrong)


def test_a_database_whose_driver_is_missing_names_the_extra(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    database = TrackingSettings(uri="postgresql://nobody@127.0.0.1/none")
    with pytest.raises(TrackingError, match=r"psycopg2.*stillwatch\[postgres,s3\]"):
        open_tracking(settings.model_copy(update={"tracking": database}))


def test_an_unreachable_bucket_is_reported_in_one_sentence(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_store(settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.setenv(name, "set back afterwards")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket = TrackingSettings(artifacts="s3://parts/mlflow", s3_endpoint=endpoint)
    tracking = open_tracking(settings.model_copy(update={"tracking": bucket}))
    run_id = tracking.start_run("plate", "stfpm", {})
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(TrackingError, match="could not store notes") as caught:
        tracking.log_folder(run_id, tmp_path / "evidence", "notes")
    assert endpoint in str(caught.value)


def test_a_state_folder_that_cannot_be_created_is_a_storage_error(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    blocked = settings.model_copy(update={"state_dir": tmp_path / "file" / "state"})
    with pytest.raises(StorageError, match="cannot be written"):
        open_tracking(blocked)


def test_a_deleted_experiment_names_the_command_that_restores_it(tracking: Tracking) -> None:
    tracking.client.delete_experiment(tracking.experiment("plate"))
    with pytest.raises(TrackingError, match="experiments restore"):
        tracking.start_run("plate", "stfpm", {})


def test_settings_are_flattened_and_figures_share_one_timestamp() -> None:
    assert flattened({"a": 1, "b": {"c": [2]}}, "stfpm") == {"stfpm.a": 1, "stfpm.b.c": [2]}
    one, two = figures({"x": 1, "y": 0.5}, timestamp=7, dataset=("plate", DIR_HASH))
    assert (one.key, one.value, one.timestamp, one.step) == ("x", 1.0, 7, 0)
    assert (two.dataset_name, two.dataset_digest) == ("plate", DIR_HASH)
