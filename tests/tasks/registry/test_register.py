import json
import threading
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from made_champions import MadeCategory
from made_detectors import examined, make_images, small, write_untrained_bundle
from made_registries import MISSED, NAME, aliases, judge, made_record
from made_stores import new_store
from PIL import Image

from stillwatch.bundle import INFO_FILE, read_bundle
from stillwatch.detectors.patchcore import PatchCore
from stillwatch.errors import PromotionError, TrackingError
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.parity import Scores
from stillwatch.inference.torch_scorer import load_scorer
from stillwatch.settings import ImageSettings, Settings, TrainingSettings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.data.version import DataVersion
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.task import evaluate_detector
from stillwatch.tasks.evaluation.test_set import read_test_set
from stillwatch.tasks.evaluation.winner import Choice
from stillwatch.tasks.promotion.alias import changing_champion, move_champion
from stillwatch.tasks.promotion.gate import JudgedVersion, judge_winner
from stillwatch.tasks.promotion.history import history
from stillwatch.tasks.promotion.promote import promote
from stillwatch.tasks.promotion.rollback import rollback
from stillwatch.tasks.registry.approval import APPROVAL, APPROVED
from stillwatch.tasks.registry.artefact_check import (
    check_artefact,
    check_examples,
    read_examples,
    registered_bundle,
)
from stillwatch.tasks.registry.register import (
    Registration,
    example_images,
    register_winner,
)
from stillwatch.tasks.registry.reload import FreshProcess
from stillwatch.tasks.registry.reload_record import RELOAD_RECORD
from stillwatch.tasks.registry.versions import (
    fetch_bundle,
    registered_versions,
    resolve_version,
    version_with_alias,
    versions_of,
)
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.tags import (
    FINGERPRINT,
    METHOD,
    REGION,
    STAGE,
    TRAINED,
    threshold_tags,
)
from stillwatch.tasks.training.candidates import DetectorSeed
from stillwatch.tasks.training.slots import training_slot
from stillwatch.tasks.training.task import TrainedDetector
from stillwatch.tasks.training.training_images import record_training_images

pytestmark = pytest.mark.costly


def test_a_model_that_takes_too_long_to_load_gives_one_sentence_with_its_remedy(
    settings: Settings,
) -> None:
    model = (new_store(settings).uri, "models:/nothing/1", [])
    remedies = {"if_slow": "Wait.", "if_broken": "Look for another."}
    said = r"from sqlite.* and scoring 0 images took more than 0\.1 s\. Wait\.$"
    with FreshProcess() as fresh, pytest.raises(TrackingError, match=said):
        fresh.scores(*model, device="cpu", timeout_seconds=0.1, **remedies)


@pytest.fixture
def here(settings: Settings) -> Settings:
    made = small(settings)
    images = made.images.model_copy(update={"max_megapixels": 90.0})
    return made.model_copy(update={"images": images})


@pytest.fixture
def tracking(here: Settings) -> Tracking:
    return new_store(here)


@pytest.mark.parametrize(("images", "side"), [({"size": 32}, 32), ({"size": 32, "scale": 1.0}, 64)])
def test_example_images_are_scaled_where_a_bundle_takes_scaled_images(
    here: Settings, tmp_path: Path, images: dict[str, float], side: int
) -> None:
    make_images(tmp_path / "data" / "plate")
    scaled = here.model_copy(
        update={"images": ImageSettings.model_validate(images | {"overlap": 0})}
    )
    category, _ = examined(tmp_path / "data" / "plate", scaled)
    test = read_test_set(category, scaled.evaluation)
    files = example_images(category, test)
    assert [Image.open(BytesIO(file)).size for file in files] == [(side, side)] * 2
    for path in test.paths:  # files of a size that large images have
        with (category.folder / path).open("ab") as file:
            file.write(bytes(11_000_000))
    assert len(example_images(category, test)) == (2 if side == 32 else 1)


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
    **more_tags: str,
) -> DetectorResult:
    category, data = plate
    tags = {FINGERPRINT: fingerprint, METHOD: "stfpm", **more_tags}
    run_id = tracking.start_run("plate", "stfpm", tags)
    write_untrained_bundle(folder / run_id, category, fingerprint, settings)
    calibration = read_bundle(folder / run_id).info.calibration
    thresholds = threshold_tags(calibration.reject.value, calibration.review.value)
    tracking.log_folder(run_id, folder / run_id, BUNDLE)
    tracking.log(run_id, tags={STAGE: TRAINED, **thresholds})
    record_training_images(tracking, run_id, category.manifest)
    trained = TrainedDetector("plate", DetectorSeed("stfpm", 0), fingerprint, run_id, reused=False)
    return evaluate_detector(trained, category, data=data, settings=settings)


def only(winner: DetectorResult) -> Choice:
    """The choice of a retraining with one detector."""
    return Choice(winner, (winner,))


def registered_and_judged(
    winner: DetectorResult, category: ExaminedCategory, settings: Settings
) -> tuple[Registration, JudgedVersion]:
    registration = register_winner(only(winner), category, settings=settings)
    return registration, judge_winner(registration, only(winner), category, settings=settings)


def test_the_winner_is_registered_once_with_its_code_tags_and_figures(
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
    seeds = (winner, luckier.model_copy(update={"run_id": "of the second seed"}))
    first = register_winner(Choice(winner, seeds), category, settings=here, parent_run=parent)
    half_registered = tracking.client.create_model_version(NAME, "nowhere", winner.run_id)
    again, judged = registered_and_judged(winner, category, here)
    assert half_registered.version not in {one.version for one in versions_of(tracking, NAME)}
    assert (first.version, first.created) == (1, True)
    assert (again.version, again.created) == (1, False)
    assert (judged.version.version, judged.version.alias) == (1, "champion")
    assert judged.version.approval is None
    assert judged.judgement is not None
    assert (judged.judgement.answer, judged.judgement.comparison) == (None, "")
    assert tracking.tags(parent)["stillwatch.model_version"] == "1"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "made", "state"}

    (version,) = versions_of(tracking, NAME)
    assert version.run_id == winner.run_id
    assert version.tags.keys() == {
        "recall",
        "false_alarm_rate",
        "stillwatch.gate",
        "stillwatch.approval",
        "stillwatch.champion_since",
    }
    assert float(version.tags["recall"]) == pytest.approx(winner.metrics["recall"])
    of_run = tracking.tags(winner.run_id)
    assert of_run["stillwatch.selected_on_test"] == "selected on test (best of 1)"
    mean, half = (1 + winner.metrics["image_auroc"]) / 2, (1 - winner.metrics["image_auroc"]) / 2
    assert of_run["stillwatch.spread"].startswith("The first of 2 seeds")
    assert f"image AUROC {mean:.3f} ± {half:.3f}, " in of_run["stillwatch.spread"]

    (logged,) = tracking.client.search_logged_models([tracking.experiment("plate")])
    assert {metric.key for metric in logged.metrics} >= {"image_auroc", "aupro"}
    package = Path(version.source.removeprefix("file://"))
    needed = (package / "requirements.txt").read_text(encoding="utf-8")
    assert "torch==" in needed
    assert "+" not in needed
    assert (package / "code" / "stillwatch" / "inference" / "inspector.py").exists()
    example = json.loads((package / "input_example.json").read_text(encoding="utf-8"))
    assert len(example["data"]) == 2
    assert not list(package.rglob("*.pkl"))
    flavour = yaml.safe_load((package / "MLmodel").read_text(encoding="utf-8"))["flavors"]
    assert flavour["python_function"]["config"] == {"device": "auto", "max_megapixels": 90.0}

    assert "was not reloaded: its files are" in check_artefact(tracking, version, here)
    record = RELOAD_RECORD.read(tracking, winner.run_id)
    recorded = record["environment"]
    assert {"architecture", "device", "python"} <= recorded.keys()
    changed = record | {"environment": recorded | {"torch": "1.0"}}
    RELOAD_RECORD.write(tracking, winner.run_id, changed)
    assert check_artefact(tracking, version, here).endswith(
        f"the reload was needed, since torch was 1.0 and is {recorded['torch']}"
    )
    (package / "code" / "added.py").touch()
    with pytest.raises(PromotionError, match="a file of its model was changed, added or removed"):
        check_artefact(tracking, version, here)
    (package / "code" / "added.py").unlink()

    (row,) = registered_versions(tracking)
    assert (row.name, row.version, row.aliases, row.synthetic) == (NAME, 1, ("champion",), False)
    assert (row.detector, row.image_auroc) == ("stfpm", winner.metrics["image_auroc"])
    for source in (f"models:/{NAME}@champion", f"models:/{NAME}/1"):
        assert resolve_version(tracking, source) == (NAME, 1)
    assert fetch_bundle(tracking, NAME, 1).info.fingerprint == "f"

    region = {REGION: "that changes no threshold"}
    in_region = only(evaluated(tracking, plate, here, tmp_path / "made", **region))
    drawn = register_winner(in_region, category, settings=here)
    assert (drawn.version > first.version, drawn.created) == (True, True)
    again = register_winner(in_region, category, settings=here)
    assert (again.version, again.created) == (drawn.version, False)


def test_a_winner_whose_anomalies_are_no_files_is_registered_with_a_normal_as_its_example(
    here: Settings, tracking: Tracking, tmp_path: Path
) -> None:
    """Synthetic anomalies are of the scaled size, and the region of interest is not."""
    folder = tmp_path / "data" / "plate"
    make_images(folder, anomalies=0)
    counted = np.full((64, 64), 255, np.uint8)
    counted[:, :8] = 0
    Image.fromarray(counted).save(folder / "region.png")
    halved = here.model_copy(update={"images": ImageSettings(size=32)})
    plate = examined(folder, halved)
    winner = evaluated(tracking, plate, halved, tmp_path / "made")
    assert winner.synthetic
    registration = register_winner(only(winner), plate[0], settings=halved)
    assert registration.created

    (version,) = versions_of(tracking, NAME)
    bundle, examples = registered_bundle(tracking, version), read_examples(tracking, version)
    assert len(examples.images) == 1
    inspector = Inspector(bundle, load_scorer(bundle, "cpu"))
    files = [inspector.decode(data, name="the example") for data in examples.images]
    (image,) = inspector.inspect(file.image for file in files)
    check_examples(bundle, examples, Scores((image.score,), (image.verdict,)))


@pytest.mark.slow
def test_without_a_free_gpu_slot_registering_waits_and_a_promotion_does_not(
    here: Settings,
    tracking: Tracking,
    plate: tuple[ExaminedCategory, DataVersion],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    winner = evaluated(tracking, plate, here, tmp_path / "made")
    folder = tmp_path / "registered" / "plate"
    version = MadeCategory(folder, tracking, here, records_reload=False).register(alpha=0.05)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    on_gpu = here.model_copy(update={"training": TrainingSettings(device="cuda:0")})

    def register() -> None:
        with suppress(TrackingError):  # where there is no such GPU
            register_winner(only(winner), plate[0], settings=on_gpu)

    registering = threading.Thread(target=register)
    registering.start()
    while not parity_processes() and registering.is_alive():
        time.sleep(0.01)
    with training_slot(here.state_dir, ["cuda:0"], 1):
        assert parity_processes() == []
        registering.join()
        missed = MISSED
        judge(tracking, version, None, missed=missed)
        tracking.client.set_model_version_tag(NAME, str(version), APPROVAL, APPROVED)
        approved = promote(
            "plate", version=version, reason="for a test", despite="a trial", settings=on_gpu
        )
    assert (approved.from_version, approved.to_version) == (None, version)
    assert approved.checked.endswith("since its registration recorded no environment")
    (kept,) = history(tracking, "plate")
    assert (kept.record.missed, kept.record.despite) == (missed, "a trial")
    assert aliases(tracking) == {"champion": version, "previous": None, "challenger": None}


def test_a_rollback_to_an_altered_version_is_refused(
    here: Settings, tracking: Tracking, tmp_path: Path
) -> None:
    category = MadeCategory(tmp_path / "data" / "plate", tracking, here, records_reload=False)
    second, first = (category.register(alpha=alpha) for alpha in (0.05, 0.2))
    with changing_champion(tracking, "plate", here):
        move_champion(tracking, made_record(second, None))
        move_champion(tracking, made_record(first, second))
    before = aliases(tracking)

    def bring_back() -> None:
        rollback("plate", version=second, reason="it was right", settings=here)

    source = tracking.client.get_model_version(NAME, str(second)).source
    package = Path(source.removeprefix("file://"))
    code = package / "code" / "stillwatch" / "inference" / "inspector.py"
    sound = code.read_text(encoding="utf-8")
    code.write_text(sound.replace("anomaly_map.max()", "anomaly_map.mean()"), encoding="utf-8")
    with pytest.raises(PromotionError, match="does not score as it was evaluated"):
        bring_back()
    code.write_text("raise ImportError('half a file')", encoding="utf-8")
    said = (
        rf"^models:/{NAME}/{second}: cannot be reloaded from sqlite.*half a file\)\. "
        "The champion was not changed"
    )
    with pytest.raises(TrackingError, match=said):
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
    method, info = package / "code/stillwatch/detectors/patchcore.py", weights.with_name(INFO_FILE)
    here_is, other = PatchCore.version, PatchCore.version + 1
    for file, text in ((method, "    version = {}"), (info, '"version": {}')):
        content = file.read_text(encoding="utf-8")
        assert text.format(here_is) in content
        changed_text = content.replace(text.format(here_is), text.format(other))
        file.write_text(changed_text, encoding="utf-8")
    with pytest.raises(PromotionError, match=f"made by version {other} of detector 'patchcore'"):
        bring_back()
    assert aliases(tracking) == before


def parity_processes() -> list[psutil.Process]:
    alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in alive if any("reload_process.py" in part for part in one.cmdline())]


def test_a_version_that_fails_parity_is_deleted_with_its_model(
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
        register_winner(only(winner), category, settings=here)
    assert registered_versions(tracking) == []
    assert tracking.client.search_registered_models() == []
    assert tracking.client.search_logged_models([tracking.experiment("plate")]) == []


def test_unknown_models_versions_and_aliases_are_refused(tracking: Tracking) -> None:
    assert registered_versions(tracking) == []
    assert version_with_alias(tracking, NAME, "champion") is None
    with pytest.raises(TrackingError, match="no such model or alias"):
        resolve_version(tracking, f"models:/{NAME}@champion")
    with pytest.raises(TrackingError, match=r"download models:/stillwatch-plate/7"):
        fetch_bundle(tracking, NAME, 7)
    with pytest.raises(TrackingError, match="names no version"):
        resolve_version(tracking, f"models:/{NAME}")
