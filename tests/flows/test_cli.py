"""What the command line refuses, and what it says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from absent_packages import NOT_ON_AN_EDGE_BOX, without
from filelock import FileLock
from made_bundles import make_bundle, make_small_bundle
from made_stores import new_store
from PIL import Image
from tests.flows.conftest import ROOT, SIDE, Plant, make_plant, make_workspace_plant, write_image
from tests.tasks.made_registries import (
    MISSED,
    NAME,
    judge,
    made_record,
    new_version,
    pending_version,
)
from warned import when_warned

from stillwatch import __version__
from stillwatch.detectors import parse_detector_settings
from stillwatch.flows.cli.options import CommandContext, PlantCommand
from stillwatch.flows.cli.start.demo import sample_root
from stillwatch.settings import Settings, WorkspaceSettings
from stillwatch.tasks.data.plant import make_plant as make_empty_plant
from stillwatch.tasks.data.workspace import create_workspace
from stillwatch.tasks.liveness import LOCK
from stillwatch.tasks.promotion.alias import changing_champion, move_champion
from stillwatch.tasks.training.progress import visible_progress
from stillwatch.training.job import EpochReport


@pytest.fixture
def line(tmp_path: Path) -> Plant:
    return make_plant(tmp_path / "line")


def refusal(plant: Plant, *arguments: str) -> str:
    """The one sentence on stderr of a command that must be refused."""
    done = plant.run_here(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("stillwatch: ")
    return " ".join(done.stderr.split())


def test_help_names_every_command_with_an_example(line: Plant) -> None:
    done = line.run_here("--help")
    assert done.returncode == 0
    commands = (
        "init",
        "add",
        "sample",
        "demo",
        "retrain",
        "validate",
        "inspect",
        "label",
        "serve",
        "export",
        "models",
        "detectors",
        "promote",
        "rollback",
        "history",
        "doctor",
        "up",
        "status",
        "down",
        "data",
    )
    for command in commands:
        assert f" {command} " in done.stdout
        if command != "data":
            assert "Example" in line.run_here(command, "--help").stdout
    assert "Exit codes" in done.stdout


def test_a_detectors_settings_are_shown_as_params_yaml_may_change_them(line: Plant) -> None:
    line.set_params(detectors={"stfpm": {"epochs": 7}})
    assert "params.yaml sets epochs: 7; the rest" in line.run_here("detectors", "stfpm").stdout
    rows = {
        row["setting"]: row
        for row in json.loads(line.run_here("detectors", "stfpm", "--json").stdout)
    }
    shown = {
        profile: {key: row[profile] for key, row in rows.items()} for profile in ("laptop", "paper")
    }
    for profile, values in shown.items():
        assert parse_detector_settings("stfpm", {}, profile).model_dump(mode="json") == values
    assert all(row["meaning"] for row in rows.values())
    assert "did you mean 'stfpm'" in refusal(line, "detectors", "stfm")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("retrian",), "did you mean 'retrain'"),
        (("retrain", "--no-such-option"), "no such option: --no-such-option"),
        (("promote",), "missing argument"),
    ],
)
def test_wrong_usage_is_one_sentence_with_its_own_exit_code(
    line: Plant, arguments: tuple[str, ...], said: str
) -> None:
    done = line.run_here(*arguments)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert said in sentence.lower()
    assert sentence.endswith("--help')")
    assert done.stdout == ""


def test_an_unexpected_error_is_one_sentence_and_its_traceback_is_in_the_log(
    line: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.callback()
    def settings(context: typer.Context) -> None:
        context.obj = CommandContext(line.folder / "params.yaml")

    @app.command(cls=PlantCommand)
    def broken() -> None:
        raise KeyError("screw")

    assert app(["broken"], standalone_mode=False) == 1
    sentence, named = capsys.readouterr().err.splitlines()
    assert "unexpected error, KeyError: 'screw'" in sentence
    (log,) = (line.state / "logs").glob("*-broken.log")
    assert named == f"log: {log}"
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_status_shows_the_trainings_that_run_now(line: Plant) -> None:
    epoch = EpochReport(
        phase="student",
        epoch=3,
        epochs=20,
        train_loss=0.5,
        validation_loss=0.25,
        seconds=1.0,
        seconds_left=65.0,
    )
    with visible_progress(line.state, "bolt/stfpm") as show:
        show(epoch)
        folder = line.state / "progress"
        running = json.loads((folder / "bolt--stfpm.json").read_text(encoding="utf-8"))
        gone = running["owner"] | {LOCK: str(line.state / "locks" / "gone.lock")}
        killed = running | {"title": "nut/stfpm", "owner": gone}
        (folder / "nut.json").write_text(json.dumps(killed), encoding="utf-8")
        (row,) = json.loads(line.run_here("status", "--json").stdout)["trainings"]
        assert (row["category"], row["detector"], row["epoch"]) == ("bolt", "stfpm", 4)
        done = line.run_here("status")
    assert done.returncode == 1, "no service runs"
    (shown,) = [one for one in done.stdout.splitlines() if "stfpm" in one]
    assert "4 of 20" in shown
    assert "1:05" in shown


def test_an_unknown_setting_names_the_nearest_one(line: Plant) -> None:
    line.set_params(trainings={"seed": 1})
    assert "unknown setting 'trainings' (did you mean 'training'?)" in refusal(line, "models")


def test_outside_a_plant_a_command_is_refused_before_it_imports_anything_heavy(
    line: Plant,
) -> None:
    (line.folder / "params.yaml").unlink()
    commands = [
        *("models", "retrain", "validate", "doctor", "demo", "serve", "watch"),
        *("up", "status", "down", "data list", "data add", "data checkout data-1"),
        *("history bolt", "promote bolt", "rollback bolt --reason x", "report bolt --out x"),
        *("inspect bolt images", "label bolt x.png --as good", "export bolt --to onnx --out x"),
        *("add bolt images", "detectors stfpm"),
    ]
    code = f"""
import sys
from stillwatch.flows.cli import main
for command in {commands}:
    sys.argv = ["stillwatch", *command.split()]
    try:
        main()
    except SystemExit as end:
        print(end.code)
heavy = {{"prefect", "mlflow", "dvc", "torch", "numpy"}}
print(heavy & sys.modules.keys())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=line.folder,
        env=line.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [*(["1"] * len(commands)), "set()"]
    sentence = (
        f"stillwatch: {line.folder}/params.yaml: no such settings file. Run stillwatch in the "
        "folder of a plant, name a file with --params, or make a plant with 'stillwatch init "
        "FOLDER'."
    )
    assert done.stderr.splitlines() == [sentence] * len(commands)


def test_a_plant_is_made_and_filled_by_two_commands(line: Plant) -> None:
    made = line.run_here("init", "plant")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == "next: cd plant && stillwatch add CATEGORY IMAGES"
    plant = Plant(line.folder / "plant")
    plant.set_params()
    added = plant.run_here("add", "bolt", "../images/bolt")
    assert added.returncode == 0, added.stderr
    assert added.stdout.splitlines()[0] == "layout: MVTec AD"
    assert "bolt: 24 of 24 files copied" in added.stdout
    assert "new data version: data-1 (data: bolt +24)" in added.stdout
    assert added.stdout.splitlines()[-1] == "next: stillwatch retrain --category bolt"
    image = line.images / "bolt" / "train" / "good" / "000.png"
    image.rename(line.folder / "pool.png")
    image.symlink_to(line.folder / "pool.png")
    assert "--follow-links" in refusal(plant, "add", "bolt", "../images/bolt")
    again = plant.run_here("add", "bolt", "../images/bolt", "--follow-links")
    assert "bolt: 0 of 24 files copied; 24 were there already" in again.stdout
    assert "same data version: data-1" in again.stdout


def test_the_demo_writes_nothing_to_the_images_of_a_plant(tmp_path: Path) -> None:
    make_empty_plant(tmp_path / "plant")
    (tmp_path / "plant" / "data").rmdir()  # as in a clone
    plant = Settings(
        workspace=WorkspaceSettings(path=tmp_path / "plant"), state_dir=tmp_path / "state"
    )
    made = tmp_path / "state" / "sample"
    made.mkdir(parents=True)  # an earlier demo has drawn it
    assert sample_root(plant) == made
    assert not (tmp_path / "plant" / "data").exists()


def test_the_demo_fills_a_clone_of_stillwatch(tmp_path: Path) -> None:
    for name in ("data.dvc", "data.split.json"):
        shutil.copy(ROOT / name, tmp_path)
    create_workspace(tmp_path, ("/data",), message="clone", files=("data.dvc", "data.split.json"))
    sample_root(
        Settings(workspace=WorkspaceSettings(path=tmp_path), state_dir=tmp_path / ".stillwatch")
    )
    assert {folder.name for folder in (tmp_path / "data").iterdir()} == {"plate", "cloth"}


def test_images_that_fail_a_check_are_added_and_named(line: Plant) -> None:
    assert line.run_here("init", "plant").returncode == 0
    plant = Plant(line.folder / "plant")
    leaked = line.images / "bolt" / "train" / "good" / "leaked.png"
    leaked.write_bytes((line.images / "bolt" / "test" / "good" / "000.png").read_bytes())
    done = plant.run_here("add", "bolt", "../images/bolt")
    assert done.returncode == 1
    assert "bolt must not be trained on" in done.stdout
    assert "leaked.png" in done.stderr
    assert (plant.folder / "data" / "bolt" / "train" / "good" / "leaked.png").exists()


def test_good_and_defective_at_once_is_wrong_usage(line: Plant) -> None:
    done = line.run_here("add", "bolt", "images", "--good", "--defect", "spot")
    assert done.returncode == 2
    assert "not both" in done.stderr


def test_images_of_a_defect_are_always_tested_with(line: Plant) -> None:
    done = line.run_here("add", "bolt", "images", "--defect", "spot", "--test")
    assert done.returncode == 2
    assert "is for good parts" in done.stderr


def test_the_version_is_printed_outside_a_plant_too(line: Plant) -> None:
    (line.folder / "params.yaml").unlink()
    assert line.run_here("--version").stdout == f"stillwatch {__version__}\n"


@pytest.mark.parametrize("content", [b"active = [", b"\xff\xfe"])
def test_damaged_profiles_of_prefect_are_named(
    line: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "profiles.toml").write_bytes(content)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    assert f"{tmp_path / 'profiles.toml'}: Prefect's profiles cannot" in refusal(line, "models")


def test_one_unusable_category_stops_no_other(line: Plant) -> None:
    bad = line.images / "Bad Name" / "train" / "good"
    bad.mkdir(parents=True)
    write_image(bad / "0.png", 0)
    done = line.run_here("validate", "--root", "images", "--json")
    assert done.returncode == 1
    reports = json.loads(done.stdout)
    assert "category 'Bad Name'" in reports["Bad Name"]["errored"][0]
    assert reports["bolt"]["errored"] == []


def test_a_root_that_is_not_there(line: Plant) -> None:
    for command in ("validate", "retrain"):
        assert "no such folder" in refusal(line, command, "--root", "nowhere")


def test_a_plant_without_images_is_sound_and_retrains_nothing(line: Plant) -> None:
    assert line.run_here("init", "plant").returncode == 0
    plant = Plant(line.folder / "plant")
    assert "there are no images. Add some with 'stillwatch add" in refusal(plant, "retrain")
    assert not (plant.state / "prefect").exists(), "no server was started"
    examined = plant.run_here("doctor")
    assert examined.returncode == 0
    assert "next: `stillwatch add CATEGORY IMAGES`" in examined.stdout


def test_a_command_that_waits_for_another_one_says_so_on_stderr(tmp_path: Path) -> None:
    plant = make_workspace_plant(tmp_path / "line")
    lock = FileLock(plant.folder / ".dvc" / "tmp" / "stillwatch.lock")
    lock.acquire()
    with when_warned(lock.release):
        done = plant.run_here("data", "add", "--json")
    assert "stillwatch: waiting for another stillwatch" in done.stderr
    assert json.loads(done.stdout)["tag"] == "data-1"


def test_a_workspace_that_is_no_repository(line: Plant) -> None:
    assert "git" in refusal(line, "data", "list")


def test_a_category_that_is_not_there(line: Plant) -> None:
    assert "screw" in refusal(line, "validate", "--root", "images", "--category", "screw")


def test_a_category_name_that_leaves_the_root(line: Plant) -> None:
    assert "../images" in refusal(line, "validate", "--root", "images", "--category", "../images")


def test_a_bundle_that_is_not_there(line: Plant) -> None:
    sentence = refusal(line, "inspect", "./nowhere", "images/bolt/test/good/000.png")
    assert "nowhere/bundle.json" in sentence


def run_on_edge_box(plant: Plant, *arguments: str) -> "subprocess.CompletedProcess[str]":
    code = without(NOT_ON_AN_EDGE_BOX, "from stillwatch.flows.cli import main; main()")
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=plant.folder,
        env=plant.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_edge_box_inspects_beside_empty_settings_as_the_bundle_does(line: Plant) -> None:
    make_small_bundle(line.folder / "bundle")
    images = ("images/bolt/test", "images/bolt/train/good/000.png")
    export = ("export", "bundle", "--to", "onnx", "--out", "edge", "--images", images[0])
    done = line.run_here(*export)
    assert done.returncode == 0, done.stderr
    assert "on 8 images the scores differ by up to" in done.stdout
    assert "new or empty" in refusal(line, *export)
    rows = json.loads(line.run_here("inspect", "bundle", *images, "--json").stdout)
    (line.folder / "params.yaml").write_text("")
    done = run_on_edge_box(line, "inspect", "edge", *images, "--out", "seen", "--json")
    assert done.returncode == 0, done.stderr
    for row, other in zip(rows, json.loads(done.stdout), strict=True):
        assert (other["path"], other["verdict"]) == (row["path"], row["verdict"])
        assert other["score"] == pytest.approx(row["score"], rel=1e-4)
        with Image.open(line.folder / "seen" / other["overlay"]) as picture:
            assert picture.width == 320 < picture.height, "the caption is below the image"


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "bundle", "images"),
        ("inspect", "models:/stillwatch-bolt@champion", "images"),
        ("inspect", "bolt", "images", "--version", "1"),
        ("retrain",),
        ("serve",),
    ],
)
def test_what_an_edge_box_cannot_do_names_the_extra(
    line: Plant, arguments: tuple[str, ...]
) -> None:
    make_small_bundle(line.folder / "bundle")
    done = run_on_edge_box(line, *arguments)
    assert done.returncode == 1, done.stderr
    sentence = " ".join(done.stderr.split())
    assert sentence.startswith("stillwatch: this needs the package '")
    assert sentence.endswith("pip install 'stillwatch[pipeline]'.")


def test_on_an_edge_box_every_name_is_a_folder(line: Plant) -> None:
    done = run_on_edge_box(line, "inspect", "nowhere", "images")
    assert "nowhere/bundle.json" in done.stderr


def test_an_export_needs_real_images_and_a_format_that_there_is(line: Plant) -> None:
    make_bundle(line.folder / "bundle")
    sentence = refusal(line, "export", "bundle", "--to", "onnx", "--out", "edge")
    assert "no images of 'plate'" in sentence
    assert "--images" in sentence
    done = line.run_here("export", "bundle", "--to", "coreml", "--out", "edge")
    assert done.returncode == 2
    assert not (line.folder / "edge").exists()


def test_an_export_reads_no_image_larger_than_the_settings_allow(line: Plant) -> None:
    make_bundle(line.folder / "bundle")
    line.set_params(images={"size": SIDE, "max_megapixels": 0.001})
    export = ("export", "bundle", "--to", "onnx", "--out", "edge", "--images", "images/bolt")
    assert "images.max_megapixels" in refusal(line, *export)


def test_images_that_are_not_there(line: Plant) -> None:
    assert "no such file or folder" in refusal(line, "inspect", "nowhere", "missing.png")


def test_a_corrected_image_waits_in_the_inbox_and_is_taken_once(tmp_path: Path) -> None:
    plant = make_workspace_plant(tmp_path / "line")
    write_image(plant.folder / "seen.png", 9000, spot=True)
    done = plant.run_here("label", "bolt", "seen.png", "--as", "spot", "--by", "Eva", "--json")
    assert done.returncode == 0, done.stderr
    (labelled,) = json.loads(done.stdout)["labelled"]
    assert Path(labelled["copy"]) == plant.folder / "inbox/bolt/feedback/spot/seen.png"
    assert Path(labelled["copy"]).read_bytes() == (plant.folder / "seen.png").read_bytes()
    assert "is in the inbox" in refusal(plant, "label", "bolt", "seen.png", "--as", "good")


def test_a_report_that_cannot_be_written_is_refused_before_any_work(line: Plant) -> None:
    sentence = refusal(line, "retrain", "--root", "images", "--report", "params.yaml/report.json")
    assert "params.yaml" in sentence
    assert "cannot be written" in sentence
    assert not line.state.exists()


def test_a_model_that_is_not_registered(line: Plant) -> None:
    sentence = refusal(line, "inspect", "models:/stillwatch-bolt@champion", "images")
    assert "stillwatch models" in sentence


def test_a_promotion_where_nothing_is_registered(line: Plant) -> None:
    new_store(Settings(state_dir=line.state))
    for command in (
        ("promote", "bolt"),
        ("promote", "bolt", "--approve", "--reason", "because"),
        ("rollback", "bolt", "--reason", "because"),
        ("history", "bolt"),
    ):
        assert "nothing is registered yet" in refusal(line, *command)
    assert line.run_here("rollback", "bolt").returncode == 2, "a rollback without a reason"


def test_what_waits_is_shown_and_the_history_outlives_the_registered_model(line: Plant) -> None:
    settings = Settings(state_dir=line.state)
    tracking = new_store(settings)
    first = new_version(tracking)
    with changing_champion(tracking, "plate", settings):
        in_spite = {"missed": MISSED, "despite": "a trial"}
        why = {"reason": "see [/n/1]"}
        move_champion(tracking, made_record(first, None).model_copy(update=in_spite | why))
    waiting = pending_version(tracking, first)
    judge(tracking, waiting, first, missed=in_spite["missed"])
    shown = line.run_here("promote", "plate")
    assert shown.returncode == 0, shown.stderr
    assert (
        "version 2 of stillwatch-plate waits for approval. On the test images it finds 2 of 20 "
        "defects (5 go to review, 13 pass unseen); rejects 0 of 20 good test parts. better: by far."
    ) in shown.stdout
    said = refusal(line, "promote", "plate", "--approve", "--reason", "because")
    assert MISSED in said
    assert "--despite 'reason'" in said
    tracking.client.delete_registered_model(NAME)
    assert "nothing is registered yet" in refusal(line, "promote", "plate")
    assert "did you mean 'plate'" in refusal(line, "history", "plates")
    assert "nothing is registered yet" in refusal(line, "serve", "plates")
    told = line.run_here("history", "plate", "--json")
    (entry,) = json.loads(told.stdout)
    assert (entry["to"], entry["despite"]) == (first, "a trial")
    assert "[/n/1]" in line.run_here("history", "plate").stdout, "a reason is no markup"


def test_a_tracking_server_that_is_down(line: Plant) -> None:
    line.set_params(tracking={"uri": "http://127.0.0.1:1"})
    line.variables["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    sentence = refusal(line, "models")
    assert "http://127.0.0.1:1" in sentence
    assert "tracking.uri" in sentence


def test_validation_names_the_files_and_fails(line: Plant) -> None:
    leaked = line.images / "bolt" / "train" / "good" / "leaked.png"
    leaked.write_bytes((line.images / "bolt" / "test" / "good" / "000.png").read_bytes())
    done = line.run_here("validate", "--root", "images", "--json")
    assert done.returncode == 1
    failures = json.loads(done.stdout)["bolt"]["failures"]
    named = {failure["path"] for failure in failures if failure["severity"] == "critical"}
    assert {"train/good/leaked.png", "test/good/000.png"} & named
    page = line.state / "validation" / "bolt.html"
    assert "leaked.png" in page.read_text(encoding="utf-8")


@pytest.mark.costly
def test_a_name_with_an_umlaut_is_validated_in_the_locale_c(line: Plant) -> None:
    good = line.images / "bolt" / "train" / "good"
    (good / "000.png").rename(good / "größe.png")
    (good / "größe.png").write_bytes(b"no image")
    line.variables["LC_ALL"] = "C"
    done = line.run("validate", "--root", "images")
    assert done.returncode == 1
    assert "größe.png" in done.stdout


def test_versions_are_listed_and_restored(line: Plant) -> None:
    added = json.loads(line.run_here("data", "add", "--root", "images", "--json").stdout)
    assert added["changed"]
    write_image(line.images / "bolt" / "train" / "good" / "new.png", 77)
    again = json.loads(line.run_here("data", "add", "--root", "images", "--json").stdout)
    assert again["data_version"] != added["data_version"]
    versions = json.loads(line.run_here("data", "list", "--root", "images", "--json").stdout)
    assert [one["dir_hash"] for one in versions] == [again["data_version"], added["data_version"]]
    done = line.run_here("data", "checkout", versions[1]["tag"], "--root", "images")
    assert done.returncode == 0, done.stderr
    (workspace,) = (line.state / "workspaces").glob("images-*")
    names = {path.name for path in (workspace / "data" / "bolt" / "train" / "good").iterdir()}
    assert "000.png" in names
    assert "new.png" not in names
    (line.images / "bolt" / "train" / "good" / "out.png").symlink_to(line.folder / "params.yaml")
    for form in ((), ("--json",)):
        done = line.run_here("data", "add", "--root", "images", *form)
        assert done.returncode == 1
        assert "out.png: leaves the image set" in done.stdout + done.stderr


def test_the_doctor_finds_what_is_missing(line: Plant) -> None:
    assert line.run_here("doctor").returncode == 0
    line.set_params(teacher={"name": "resnet18.tv_in1k"})
    for category in ("Bolt 1", "nut"):
        (line.folder / "data" / category / "train").mkdir(parents=True)
    done = line.run_here("doctor", "--json")
    assert done.returncode == 1
    findings = {one["what"]: one for one in json.loads(done.stdout)}
    assert findings["teacher weights"]["state"] == "missing"
    assert "resnet18.tv_in1k" in findings["teacher weights"]["detail"]
    assert findings["torch"]["state"] == "ok"
    said = "next: mend what is missing (teacher weights), then `stillwatch doctor` again"
    assert line.run_here("doctor").stdout.splitlines()[-1] == said
    assert findings["image set"]["detail"].endswith("data: Bolt 1, nut"), "what it cannot use, too"
