import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_detectors import (
    DIR_HASH,
    examined,
    make_images,
    small,
    without_test_rows,
    write_untrained_bundle,
)
from made_stores import new_store
from PIL import Image

from stillwatch.settings import ImageSettings, Settings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.data.version import DataVersion
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.task import evaluate_detector, named_metrics
from stillwatch.tasks.evaluation.test_set import image_file, read_test_set
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.tags import STAGE, TRAINED
from stillwatch.tasks.training.candidates import DetectorSeed
from stillwatch.tasks.training.task import TrainedDetector

FINGERPRINT = "f" * 64


@pytest.fixture
def here(settings: Settings) -> Settings:
    return small(settings)


@pytest.fixture
def plate(here: Settings, tmp_path: Path) -> tuple[ExaminedCategory, DataVersion]:
    make_images(tmp_path / "data" / "plate")
    return examined(tmp_path / "data" / "plate", here)


@pytest.fixture
def tracking(here: Settings) -> Tracking:
    return new_store(here)


@pytest.fixture
def trained(
    here: Settings,
    plate: tuple[ExaminedCategory, DataVersion],
    tracking: Tracking,
    tmp_path: Path,
) -> TrainedDetector:
    run_id = tracking.start_run("plate", "stfpm", {})
    write_untrained_bundle(tmp_path / "made", plate[0], FINGERPRINT, here)
    tracking.log_folder(run_id, tmp_path / "made", BUNDLE)
    tracking.log(run_id, tags={STAGE: TRAINED})
    return TrainedDetector("plate", DetectorSeed("stfpm", 0), FINGERPRINT, run_id, reused=False)


def test_the_run_holds_all_evidence_and_is_finished(
    here: Settings,
    plate: tuple[ExaminedCategory, DataVersion],
    tracking: Tracking,
    trained: TrainedDetector,
) -> None:
    category, data = plate
    result = evaluate_detector(trained, category, data=data, settings=here)
    run = tracking.client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["image_auroc"] == result.metrics["image_auroc"]
    low, high = result.intervals["image_auroc"]
    assert (run.data.metrics["image_auroc_low"], run.data.metrics["image_auroc_high"]) == (
        low,
        high,
    )
    assert {"aupro", "recall/scratch", "false_alarm_rate/in_sample", "ms_per_image"} <= set(
        run.data.metrics
    )
    assert run.data.tags["stillwatch.synthetic"] == "false"
    with tracking.artifact(trained.run_id, "pictures") as pictures:
        assert {path.name for path in pictures.iterdir()} >= {
            *("gallery.png", "score_histogram.png", "roc_curve.png", "pro_curve.png"),
        }
    with tracking.artifact(trained.run_id, "scores.parquet") as path:
        table = pq.read_table(path)
    assert table.num_rows == 10
    assert {path.split("/")[0] for path in table["path"].to_pylist()} == {"test"}
    verdicts = list(zip(table["label"].to_pylist(), table["verdict"].to_pylist(), strict=True))
    assert {verdict for _, verdict in verdicts} <= {"pass", "review", "reject"}
    assert result.reviewed_anomalies == verdicts.count((1, "review"))
    with tracking.artifact(trained.run_id, "evaluation.json") as path:
        stored = json.loads(path.read_text(encoding="utf-8"))
    assert DetectorResult.model_validate(stored) == result
    assert result.feedback is not None
    corrected = result.feedback.images
    assert [one.path for one in corrected] == [f"feedback/scratch/00{n}.png" for n in range(3)]
    rejected = sum(one.score > result.threshold for one in corrected)
    assert run.data.metrics["feedback_images"] == 3
    assert run.data.metrics["feedback_recall"] == rejected / 3
    assert "verdict a person corrected" in run.data.tags["mlflow.note.content"]
    assert (result.data_version, result.n_calibration, result.alpha) == (DIR_HASH, 19, 0.05)
    assert (result.calibration_repeats, result.bound) == (0, 0.05)


def test_a_second_evaluation_reads_the_first_one_back(
    here: Settings,
    plate: tuple[ExaminedCategory, DataVersion],
    tracking: Tracking,
    trained: TrainedDetector,
) -> None:
    category, data = plate
    first = evaluate_detector(trained, category, data=data, settings=here)
    again = TrainedDetector("plate", trained.candidate, FINGERPRINT, trained.run_id, reused=True)
    second = evaluate_detector(again, category, data=data, settings=here)
    assert second == first.model_copy(update={"reused": True})
    assert len(tracking.client.get_metric_history(trained.run_id, "image_auroc")) == 1


def test_calibration_images_that_repeat_another_image_do_not_count_for_the_bound(
    here: Settings,
    plate: tuple[ExaminedCategory, DataVersion],
    tracking: Tracking,
    trained: TrainedDetector,
) -> None:
    category, data = plate
    rows = category.manifest.rows
    first, second, third = [row for row in rows if row.part == "calibration"][:3]
    learnt = next(row for row in rows if row.part == "train")
    shown = {second.path: first.thumbnail, third.path: learnt.thumbnail}
    repeated = tuple(replace(row, thumbnail=shown.get(row.path, row.thumbnail)) for row in rows)
    manifest = replace(category.manifest, rows=repeated)
    result = evaluate_detector(
        trained, replace(category, manifest=manifest), data=data, settings=here
    )
    assert (result.n_calibration, result.calibration_repeats) == (19, 2)
    assert result.bound == 1 / 18  # the largest of 17
    note = tracking.tags(trained.run_id)["mlflow.note.content"]
    assert "Of the 19 calibration images 2 show the same as another" in note


def test_figures_from_synthetic_anomalies_are_marked_wherever_they_appear(
    here: Settings,
    plate: tuple[ExaminedCategory, DataVersion],
    tracking: Tracking,
    trained: TrainedDetector,
) -> None:
    category, data = plate
    normals_only = without_test_rows(category, "scratch")
    result = evaluate_detector(trained, normals_only, data=data, settings=here)
    assert result.synthetic
    run = tracking.client.get_run(trained.run_id)
    assert run.data.tags["stillwatch.synthetic"] == "true"
    assert "Synthetic anomalies" in run.data.tags["mlflow.note.content"]
    unmarked = {
        name
        for name in named_metrics(result)
        if not name.startswith(("synthetic_", "false_alarm_rate", "review_rate", "feedback_"))
    }
    assert unmarked == {"ms_per_image"}
    assert {"synthetic_image_auroc", "synthetic_aupro_low"} <= set(run.data.metrics)
    assert "image_auroc" not in run.data.metrics


def test_synthetic_anomalies_are_made_from_test_normals_else_from_validation_normals(
    here: Settings, plate: tuple[ExaminedCategory, DataVersion], tmp_path: Path
) -> None:
    category, _ = plate
    parts = {row.path: row.part for row in category.manifest.rows}
    from_test = read_test_set(without_test_rows(category, "scratch"), here.evaluation)
    assert from_test.synthetic
    assert {parts.get(path, "made") for path in from_test.paths} == {"test", "made"}
    assert all(isinstance(image, np.memmap) for image in from_test.images)  # not in memory
    neither = read_test_set(without_test_rows(category, "scratch", "good"), here.evaluation)
    assert {parts.get(path, "made") for path in neither.paths} == {"validation", "made"}
    assert neither.defect_types.count("good") == 4
    assert neither.masks is not None
    made = np.array([kind != "good" for kind in neither.defect_types])
    assert [mask.any() for mask in neither.masks] == made.tolist()
    numbers = range(len(neither.paths))
    files = [image_file(category, neither, number, tmp_path) for number in numbers]
    assert [file is not None and file.parent == tmp_path for file in files] == made.tolist()


def test_real_anomalies_keep_their_masks_and_one_without_mask_means_image_figures_only(
    here: Settings, plate: tuple[ExaminedCategory, DataVersion]
) -> None:
    category, _ = plate
    whole = read_test_set(category, here.evaluation)
    assert not whole.synthetic
    assert whole.masks is not None
    assert [mask.sum() for mask in whole.masks] == [0] * 6 + [400] * 4
    rows = tuple(replace(row, mask=None) for row in category.manifest.rows)
    bare = replace(category, manifest=replace(category.manifest, rows=rows))
    assert read_test_set(bare, here.evaluation).masks is None


def test_a_region_clips_defects_and_names_those_outside(here: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "plate"
    make_images(folder)
    # The defects are at rows 20 to 29 and columns 12 to 51; two are moved out of the region.
    counted = np.zeros((64, 64), np.uint8)
    counted[25:, :32] = 255
    Image.fromarray(counted).save(folder / "region.png")
    moved = np.zeros((64, 64), np.uint8)
    moved[2:8, 2:8] = 255
    for number in (1, 3):
        Image.fromarray(moved).save(folder / f"ground_truth/scratch/00{number}_mask.png")
    category, _ = examined(folder, here)
    test = read_test_set(category, here.evaluation)
    assert test.outside_region == ("test/scratch/001.png", "test/scratch/003.png")
    assert test.defect_types == ("good",) * 6 + ("scratch",) * 2
    assert test.masks is not None
    assert test.counted is not None
    assert [mask.sum() for mask in test.masks] == [0] * 6 + [5 * 20] * 2
    assert all(np.array_equal(one, counted > 0) for one in test.counted)


def test_synthetic_anomalies_are_in_the_region(here: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "plate"
    make_images(folder, anomalies=1)
    corner = np.zeros((64, 64), np.uint8)
    corner[48:, 48:] = 255
    Image.fromarray(corner).save(folder / "region.png")
    test = read_test_set(examined(folder, here)[0], here.evaluation)
    assert test.synthetic
    assert test.outside_region == ("test/scratch/000.png",)
    assert test.masks is not None
    assert test.counted is not None
    made = [kind != "good" for kind in test.defect_types]
    assert 0 < sum(made) < here.evaluation.synthetic_anomalies
    assert [mask.any() for mask in test.masks] == made
    assert not np.any(test.masks, axis=0)[corner == 0].any()
    assert len(test.images) == len(test.paths) == len(test.masks) == len(test.counted)
    assert test.made_from.keys() == {path for path in test.paths if path.startswith("synthetic/")}


def test_a_scaled_synthetic_anomaly_does_not_fit_the_region_of_the_files(
    here: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "plate"
    make_images(folder, anomalies=0)
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(folder / "region.png")
    scaled = here.model_copy(update={"images": ImageSettings(size=48)})
    category, _ = examined(folder, scaled)
    test = read_test_set(category, scaled.evaluation)
    numbers = range(len(test.paths))
    files = [image_file(category, test, number, tmp_path) for number in numbers]
    assert "synthetic_perlin" in test.defect_types
    assert [file is None for file in files] == [kind != "good" for kind in test.defect_types]


def test_an_evaluation_that_fails_can_be_repeated(
    here: Settings,
    plate: tuple[ExaminedCategory, DataVersion],
    tracking: Tracking,
    trained: TrainedDetector,
) -> None:
    category, data = plate
    mask = category.folder / "ground_truth/scratch/000_mask.png"
    kept = mask.read_bytes()
    mask.write_bytes(b"")
    with pytest.raises(Exception, match="000_mask"):
        evaluate_detector(trained, category, data=data, settings=here)
    mask.write_bytes(kept)
    assert evaluate_detector(trained, category, data=data, settings=here).metrics
