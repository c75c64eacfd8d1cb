import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from made_detectors import examined, make_images, small, write_untrained_bundle
from made_registries import NAME, aliases
from made_results import result
from made_stores import new_store

from stillwatch.bundle import read_bundle
from stillwatch.errors import PromotionError, SettingsError, TrackingError
from stillwatch.settings import (
    FloorSettings,
    GateSettings,
    RetrainSettings,
    Settings,
    TrainingSettings,
)
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.data.version import DataVersion
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.task import evaluate_detector
from stillwatch.tasks.evaluation.winner import below_floors, choose_winner, eligible
from stillwatch.tasks.promotion.history import history
from stillwatch.tasks.promotion.promote import approve_tagged, promote
from stillwatch.tasks.promotion.rollback import rollback
from stillwatch.tasks.registry.register import Registration, register_winner
from stillwatch.tasks.registry.reload import FreshProcess
from stillwatch.tasks.registry.versions import (
    fetch_bundle,
    registered_versions,
    version_with_alias,
    versions_of,
)
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.tags import STAGE, TRAINED, threshold_tags
from stillwatch.tasks.training.candidates import Entrant
from stillwatch.tasks.training.slots import training_slot
from stillwatch.tasks.training.task import TrainedDetector

pytestmark = pytest.mark.processes


class TestChoice:
    def test_the_best_figure_wins(self) -> None:
        low = result("a", metrics={"image_auroc": 0.9, "aupro": 0.99})
        high = result("b", metrics={"image_auroc": 0.91, "aupro": 0.1}, ms_per_image=99.0)
        assert choose_winner([low, high], "image_auroc") is high
        assert choose_winner([low, high], "aupro") is low

    def test_seeds_count_by_their_mean_and_the_first_of_them_wins(self) -> None:
        lucky = [result("a", metrics={"image_auroc": auroc}) for auroc in (0.8, 0.99)]
        steady = [result("b", metrics={"image_auroc": auroc}) for auroc in (0.9, 0.92)]
        assert choose_winner([*lucky, *steady], "image_auroc") is steady[0]
        assert choose_winner([*lucky, result("b", metrics={})], "image_auroc") is lucky[0]

    def test_ties_go_to_aupro_then_to_speed(self) -> None:
        slow = result("a", metrics={"image_auroc": 0.9, "aupro": 0.8}, ms_per_image=20.0)
        fast = result("b", metrics={"image_auroc": 0.9 + 1e-12, "aupro": 0.8}, ms_per_image=5.0)
        local = result("c", metrics={"image_auroc": 0.9, "aupro": 0.81}, ms_per_image=99.0)
        assert choose_winner([slow, fast], "image_auroc") is fast
        assert choose_winner([slow, fast, local], "image_auroc") is local

    def test_without_masks_a_tie_goes_to_speed(self) -> None:
        slow = result("a", metrics={"image_auroc": 1.0}, ms_per_image=20.0)
        fast = result("b", metrics={"image_auroc": 1.0}, ms_per_image=5.0)
        assert choose_winner([slow, fast], "image_auroc") is fast

    def test_a_figure_that_nobody_has_is_a_setting_to_change(self) -> None:
        with pytest.raises(SettingsError, match=r"retrain\.select_by is pixel_auroc"):
            choose_winner([result(metrics={"image_auroc": 1.0})], "pixel_auroc")

    def test_a_yardstick_wins_only_where_it_may(self) -> None:
        yardstick, student = result("patchcore"), result("stfpm")
        assert eligible([yardstick, student], RetrainSettings()) == [student]
        both = RetrainSettings(allow_yardstick=True)
        assert eligible([yardstick, student], both) == [yardstick, student]
        with pytest.raises(SettingsError, match=r"retrain\.allow_yardstick"):
            eligible([yardstick], RetrainSettings())

    def test_floors_and_synthetic_figures_keep_a_detector_from_becoming_champion(self) -> None:
        floors = FloorSettings(image_auroc=0.85, aupro=0.5)
        assert below_floors(result(), floors) == ()
        assert below_floors(result(metrics={"image_auroc": 0.9}), floors) == ()
        assert len(below_floors(result(metrics={"image_auroc": 0.8, "aupro": 0.4}), floors)) == 2
        assert "synthetic" in below_floors(result(synthetic=True), floors)[0]
        assert "test/good" in below_floors(result(test_normals_from="validation"), floors)[0]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (120, r"models:/nothing/1: cannot be reloaded from sqlite.* Look for another\.$"),
        (0.1, r"from sqlite.* and scoring 0 images took more than 0\.1 s\. Wait\.$"),
    ],
)
def test_a_model_that_cannot_be_scored_with_is_one_sentence_with_its_remedy(
    settings: Settings, seconds: float, said: str
) -> None:
    remedies = {"if_slow": "Wait.", "if_broken": "Look for another."}
    model = (new_store(settings).uri, "models:/nothing/1", [])
    with FreshProcess() as fresh, pytest.raises(TrackingError, match=said):
        fresh.scores(*model, device="cpu", timeout_seconds=seconds, **remedies)


@pytest.fixture
def here(settings: Settings) -> Settings:
    made = small(settings)
    images = made.images.model_copy(update={"max_megapixels": 90.0})
    return made.model_copy(update={"images": images})


@pytest.fixture
def tracking(here: Settings) -> Tracking:
    return new_store(here)


@pytest.fixture
def plate(here: Settings, tmp_path: Path) -> tuple[ExaminedCategory, DataVersion]:
    make_images(tmp_path / "data" / "plate")
    return examined(tmp_path / "data" / "plate", here)


def evaluated(
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    settings: Settings,
    folder: Path,
    fingerprint: str = "f",
) -> DetectorResult:
    category, data = plate
    tags = {"stillwatch.fingerprint": fingerprint, "stillwatch.method": "stfpm"}
    run_id = tracking.start_run("plate", "stfpm", tags)
    write_untrained_bundle(folder / run_id, category, fingerprint, settings)
    calibration = read_bundle(folder / run_id).info.calibration
    thresholds = threshold_tags(calibration.reject.value, calibration.review.value)
    tracking.log_folder(run_id, folder / run_id, BUNDLE)
    tracking.log(run_id, tags={STAGE: TRAINED, **thresholds})
    trained = TrainedDetector("plate", Entrant("stfpm", 0), fingerprint, run_id, reused=False)
    return evaluate_detector(trained, category, data=data, settings=settings)


def test_the_winner_is_registered_once_and_answers_like_the_evaluated_one(
    here: Settings,
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    category, _ = plate
    monkeypatch.chdir(tmp_path)
    winner = evaluated(tracking, plate, here, tmp_path / "made")
    parent = tracking.start_run("plate", "retraining", {})
    luckier = winner.model_copy(update={"metrics": winner.metrics | {"image_auroc": 1.0}})
    seeds = [winner, luckier.model_copy(update={"run_id": "of the second seed"})]
    first = register_winner(seeds, category, settings=here, parent_run=parent)
    half_registered = tracking.client.create_model_version(NAME, "nowhere", winner.run_id)
    again = register_winner([winner], category, settings=here)
    assert half_registered.version not in {one.version for one in versions_of(tracking, NAME)}
    assert (first.version, first.alias, first.created) == (1, "champion", True)
    assert (again.version, again.alias, again.created) == (1, "champion", False)
    assert tracking.tags(parent)["stillwatch.model_version"] == "1"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "made", "state"}

    (version,) = versions_of(tracking, NAME)
    assert version.run_id == winner.run_id
    assert version.tags["stillwatch.selected_on_test"] == "selected on test (best of 1)"
    assert version.tags["stillwatch.threshold"] == repr(winner.threshold)
    assert float(version.tags["image_auroc"]) == pytest.approx(winner.metrics["image_auroc"])
    assert "within" in version.tags["stillwatch.parity"]
    mean, half = (1 + winner.metrics["image_auroc"]) / 2, (1 - winner.metrics["image_auroc"]) / 2
    assert version.tags["stillwatch.spread"].startswith("The first of 2 seeds")
    assert f"image AUROC {mean:.3f} ± {half:.3f}, " in version.tags["stillwatch.spread"]

    (logged,) = tracking.client.search_logged_models([tracking.experiment("plate")])
    assert {metric.key for metric in logged.metrics} >= {"image_auroc", "aupro"}
    package = Path(version.source.removeprefix("file://"))
    needed = (package / "requirements.txt").read_text(encoding="utf-8")
    assert "torch==" in needed
    assert "+" not in needed
    assert (package / "code" / "stillwatch" / "inspection.py").exists()
    example = json.loads((package / "input_example.json").read_text(encoding="utf-8"))
    assert len(example["data"]) == 2
    assert not list(package.rglob("*.pkl"))
    flavour = yaml.safe_load((package / "MLmodel").read_text(encoding="utf-8"))["flavors"]
    assert flavour["python_function"]["config"] == {"device": "auto", "max_megapixels": 90.0}

    (row,) = registered_versions(tracking)
    assert (row.name, row.version, row.aliases, row.synthetic) == (NAME, 1, ("champion",), False)
    assert row.detector == "stfpm"
    by_alias = fetch_bundle(tracking, f"models:/{NAME}@champion")
    assert by_alias.info == fetch_bundle(tracking, f"models:/{NAME}/1").info
    assert by_alias.info.fingerprint == "f"


def test_a_second_winner_waits_is_approved_by_tag_and_rolled_back(
    here: Settings,
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    tmp_path: Path,
) -> None:
    category, _ = plate

    def registered(fingerprint: str) -> Registration:
        winner = evaluated(tracking, plate, here, tmp_path / "made", fingerprint)
        return register_winner([winner], category, settings=here)

    first, second = registered("f"), registered("g")
    assert (first.alias, first.answer, first.comparison, first.approval) == (
        "champion",
        None,
        "",
        None,
    )
    assert (second.alias, second.answer, second.approval) == ("challenger", "not_worse", "pending")
    assert "with the same scores on every image" in second.comparison
    assert second.not_promoted == "the gate's answer is not_worse"
    assert {one.path for one in tracking.client.list_artifacts(second.run_id)} >= {
        "comparison.json"
    }

    tracking.client.set_model_version_tag(NAME, "2", "stillwatch.approval", "approved")
    (approved,) = approve_tagged(here)
    assert (approved.from_version, approved.to_version) == (1, 2)
    assert approved.who == "MLflow tag, approver not authenticated"
    assert approve_tagged(here) == []
    assert aliases(tracking) == {"champion": 2, "previous": 1, "challenger": None}

    rollback("plate", reason="too many false alarms", settings=here)
    assert aliases(tracking) == {"champion": 1, "previous": None, "challenger": None}
    with pytest.raises(PromotionError, match="no previous champion"):
        rollback("plate", reason="once more", settings=here)
    again = registered("g")
    assert (again.version, again.created, again.alias) == (2, False, None)
    assert aliases(tracking)["champion"] == 1, "what was rolled back does not come back by itself"

    def bring_back() -> None:
        rollback("plate", to=2, reason="it was right", settings=here)

    package = Path(tracking.client.get_model_version(NAME, "2").source.removeprefix("file://"))
    code = package / "code" / "stillwatch" / "inspection.py"
    sound = code.read_text(encoding="utf-8")
    code.write_text(sound.replace(".max(axis=1)", ".mean(axis=1)"), encoding="utf-8")
    with pytest.raises(PromotionError, match="does not score as it was evaluated"):
        bring_back()
    code.write_text("raise ImportError('half a file')", encoding="utf-8")
    with pytest.raises(TrackingError, match=r"half a file\)\. The champion was not changed"):
        bring_back()
    code.write_text(sound, encoding="utf-8")
    weights = package / "artifacts" / BUNDLE / "weights.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(PromotionError, match="sha256"):
        bring_back()
    changed[-1] ^= 1
    weights.write_bytes(changed)
    method, info = package / "code/stillwatch/detectors/stfpm.py", weights.with_name("bundle.json")
    for file, own in ((method, "    version = 1"), (info, '"version": 1')):
        content = file.read_text(encoding="utf-8")
        assert own in content
        file.write_text(content.replace(own, own.replace("1", "2")), encoding="utf-8")
    with pytest.raises(PromotionError, match="made by version 2 of detector 'stfpm'"):
        bring_back()
    assert aliases(tracking) == {"champion": 1, "previous": None, "challenger": None}
    kinds = [(one.record.kind, one.record.to_version) for one in history(tracking, "plate")]
    assert kinds == [("rollback", 1), ("promotion", 2), ("promotion", 1)]


def test_an_approval_by_a_person_is_in_their_name(
    here: Settings,
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    tmp_path: Path,
) -> None:
    careful = here.model_copy(update={"gate": GateSettings(promotion="approval")})
    winner = evaluated(tracking, plate, careful, tmp_path / "made")
    waiting = register_winner([winner], plate[0], settings=careful)
    assert (waiting.alias, waiting.approval) == ("challenger", "pending")
    record = promote("plate", reason="seen on line 3", settings=careful)
    assert (record.who, record.reason) == (psutil.Process().username(), "seen on line 3")
    assert (record.from_version, record.to_version, record.answer) == (None, 1, None)
    assert aliases(tracking) == {"champion": 1, "previous": None, "challenger": None}


def test_with_all_slots_of_a_gpu_taken_registering_waits_and_promoting_does_not(
    here: Settings,
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = GateSettings(promotion="approval")
    on_cpu = here.model_copy(update={"gate": gate, "training": TrainingSettings(device="cpu")})
    winner = evaluated(tracking, plate, on_cpu, tmp_path / "made")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    on_gpu = on_cpu.model_copy(update={"training": TrainingSettings(device="cuda:0")})

    def register() -> None:
        with suppress(TrackingError):  # where there is no such GPU
            register_winner([winner], plate[0], settings=on_gpu)

    registering = threading.Thread(target=register)
    registering.start()
    while not parity_processes() and registering.is_alive():
        time.sleep(0.01)
    with training_slot(here.state_dir, ["cuda:0"], 1):
        assert parity_processes() == []
        registering.join()
        register_winner([winner], plate[0], settings=on_cpu)
        record = promote("plate", reason="seen on line 3", settings=on_gpu)
    assert (record.from_version, record.to_version) == (None, 1)


def parity_processes() -> list[psutil.Process]:
    alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in alive if any("reload_process.py" in part for part in one.cmdline())]


def test_a_copy_that_differs_is_deleted_with_all_its_traces(
    here: Settings,
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    tmp_path: Path,
) -> None:
    category, _ = plate
    winner = evaluated(tracking, plate, here, tmp_path / "made")
    image = category.folder / "test/good/000.png"
    image.write_bytes((category.folder / "test/scratch/000.png").read_bytes())
    with pytest.raises(TrackingError, match="the version was deleted"):
        register_winner([winner], category, settings=here)
    assert registered_versions(tracking) == []
    assert tracking.client.search_registered_models() == []
    assert tracking.client.search_logged_models([tracking.experiment("plate")]) == []


def test_what_is_not_registered_is_refused_with_a_sentence(tracking: Tracking) -> None:
    assert registered_versions(tracking) == []
    assert version_with_alias(tracking, NAME, "champion") is None
    with pytest.raises(TrackingError, match="no such model or alias"):
        fetch_bundle(tracking, f"models:/{NAME}@champion")
    with pytest.raises(TrackingError, match=r"hand out models:/stillwatch-plate/7"):
        fetch_bundle(tracking, f"models:/{NAME}/7")
    with pytest.raises(TrackingError, match="names no version"):
        fetch_bundle(tracking, f"models:/{NAME}")
