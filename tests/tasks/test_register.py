import json
from contextlib import suppress
from pathlib import Path

import pytest
from made_detectors import examined, make_images, small, write_untrained_bundle
from made_results import result
from made_stores import new_store
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from stillwatch.bundle import read_bundle
from stillwatch.errors import SettingsError, TrackingError
from stillwatch.settings import FloorSettings, RetrainSettings, Settings
from tasks.detector_result import DetectorResult
from tasks.evaluate import evaluate_detector
from tasks.examine import ExaminedCategory
from tasks.parity import FreshProcess
from tasks.register import (
    below_floors,
    choose_winner,
    eligible,
    give_alias,
    register_winner,
)
from tasks.registry import (
    fetch_bundle,
    registered_versions,
    version_with_alias,
    versions_of,
)
from tasks.tracking import BUNDLE, STAGE, TRAINED, Tracking
from tasks.train import TrainedDetector
from tasks.version import DataVersion

pytestmark = pytest.mark.processes

NAME = "stillwatch-plate"


class TestChoice:
    def test_the_best_figure_wins(self) -> None:
        low = result("a", metrics={"image_auroc": 0.9, "aupro": 0.99})
        high = result("b", metrics={"image_auroc": 0.91, "aupro": 0.1}, ms_per_image=99.0)
        assert choose_winner([low, high], "image_auroc") is high
        assert choose_winner([low, high], "aupro") is low

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


def test_a_model_that_cannot_be_loaded_is_one_sentence(settings: Settings) -> None:
    uri = new_store(settings).uri
    with FreshProcess() as fresh, pytest.raises(TrackingError, match="cannot be reloaded"):
        fresh.scores(uri, "models:/nothing/1", [], device="cpu", timeout_seconds=120)


@pytest.fixture
def here(settings: Settings) -> Settings:
    return small(settings)


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
    reject = read_bundle(folder / run_id).info.calibration.reject
    review = read_bundle(folder / run_id).info.calibration.review
    tracking.log_folder(run_id, folder / run_id, BUNDLE)
    tracking.log(
        run_id,
        tags={
            STAGE: TRAINED,
            "stillwatch.threshold": repr(reject.value),
            "stillwatch.review_threshold": repr(review.value),
        },
    )
    trained = TrainedDetector("plate", "stfpm", fingerprint, run_id, reused=False)
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
    first = register_winner([winner], category, settings=here, parent_run=parent)
    again = register_winner([winner], category, settings=here)
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

    (row,) = registered_versions(tracking)
    assert (row.name, row.version, row.aliases, row.synthetic) == (NAME, 1, ("champion",), False)
    assert row.detector == "stfpm"
    by_alias = fetch_bundle(tracking, f"models:/{NAME}@champion")
    assert by_alias.info == fetch_bundle(tracking, f"models:/{NAME}/1").info
    assert by_alias.info.fingerprint == "f"


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


def new_version(tracking: Tracking, folder: Path) -> ModelVersion:
    with suppress(MlflowException):
        tracking.client.create_registered_model(NAME)
    return tracking.client.create_model_version(NAME, str(folder))


class TestAlias:
    def test_the_first_that_is_fit_becomes_champion_and_later_ones_challenge(
        self, tracking: Tracking, tmp_path: Path
    ) -> None:
        floors = FloorSettings(image_auroc=0.85, aupro=0.5)

        def alias_of_next(winner: DetectorResult) -> str:
            version = new_version(tracking, tmp_path)
            give_alias(tracking, NAME, version, winner, floors)
            (row,) = [r for r in registered_versions(tracking) if r.version == version.version]
            return row.aliases[0]

        assert alias_of_next(result(synthetic=True)) == "challenger"
        assert alias_of_next(result(metrics={"image_auroc": 0.8})) == "challenger"
        assert alias_of_next(result()) == "champion"
        assert alias_of_next(result(metrics={"image_auroc": 1.0})) == "challenger"
        assert version_with_alias(tracking, NAME, "champion") == 3

    def test_a_champion_that_a_person_withdrew_is_not_replaced_unasked(
        self, tracking: Tracking, tmp_path: Path
    ) -> None:
        give_alias(tracking, NAME, new_version(tracking, tmp_path), result(), FloorSettings())
        tracking.client.delete_registered_model_alias(NAME, "champion")
        give_alias(tracking, NAME, new_version(tracking, tmp_path), result(), FloorSettings())
        assert version_with_alias(tracking, NAME, "champion") is None
        assert version_with_alias(tracking, NAME, "challenger") == 2


def test_what_is_not_registered_is_refused_with_a_sentence(tracking: Tracking) -> None:
    assert registered_versions(tracking) == []
    assert version_with_alias(tracking, NAME, "champion") is None
    with pytest.raises(TrackingError, match="no such model or alias"):
        fetch_bundle(tracking, f"models:/{NAME}@champion")
    with pytest.raises(TrackingError, match=r"hand out models:/stillwatch-plate/7"):
        fetch_bundle(tracking, f"models:/{NAME}/7")
    with pytest.raises(TrackingError, match="names no version"):
        fetch_bundle(tracking, f"models:/{NAME}")
