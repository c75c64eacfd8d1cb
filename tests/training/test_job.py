"""Training in a child process: its result, its failures, its death and its parent's."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image
from toys import SIDE, toy_normals

from stillwatch.bundle import Bundle, read_bundle, read_weights
from stillwatch.detectors.uninformed_students import UninformedStudents
from stillwatch.errors import CalibrationError, TrainingError
from stillwatch.geometry import Geometry, fitted, tiled
from stillwatch.images.region import Region
from stillwatch.images.store import store_writer
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.torch_scorer import load_scorer
from stillwatch.settings import CalibrationSettings, TeacherSettings, TrainingSettings
from stillwatch.training.child import run
from stillwatch.training.job import EpochReport, TrainingJob, run_training
from stillwatch.training.rescoring import rescored

pytestmark = [
    pytest.mark.costly,
    pytest.mark.xdist_group("training job"),  # its fixture takes seconds
]
ONE_TILE = fitted([(SIDE, SIDE)], SIDE)
PARTS = {"train": range(8), "validation": range(8, 11), "calibration": range(11, 20)}


def path_of(number: int) -> str:
    return f"train/good/{number:03}.png"


def write_store(folder: Path, images: NDArray[np.uint8], geometry: Geometry = ONE_TILE) -> Path:
    named = {path_of(number): image for number, image in enumerate(images)}
    shapes = {path: (image.shape[0], image.shape[1]) for path, image in named.items()}
    with store_writer(folder, shapes, geometry) as store:
        for path, image in named.items():
            store.add(path, image)
    return folder


def make_job(folder: Path, store: Path, **changes: Any) -> TrainingJob:
    values: dict[str, Any] = {
        "category": "plate",
        "detector": "stfpm",
        "detector_settings": {"epochs": 5, "batch_size": 4, "learning_rate": 0.05},
        "teacher": TeacherSettings(),
        "training": TrainingSettings(device="cpu", checkpoint_every=1),
        "calibration": CalibrationSettings(alpha_reject=0.1, alpha_review=0.2),
        "white_level": 255,
        "store": store,
        "parts": {part: tuple(map(path_of, numbers)) for part, numbers in PARTS.items()},
        "region": None,
        "groups": {path_of(number): f"session {number % 2}" for number in range(20)},
        "checkpoint": folder / "checkpoint",
        "shared": folder / "shared",
        "bundle": folder / "bundle",
        "fingerprint": "f" * 64,
        "provenance": {"data_version": "abc.dir"},
    }
    return TrainingJob.model_validate(values | changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "plate", toy_normals(20))


Finished = tuple[TrainingJob, int, list[EpochReport]]


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    job = make_job(tmp_path_factory.mktemp("finished"), store)
    seen: list[EpochReport] = []
    return job, run_training(job, on_epoch=seen.append), seen


def test_it_leaves_a_bundle_and_no_checkpoint(finished: Finished) -> None:
    job, peak_memory_bytes, seen = finished
    info = read_bundle(job.bundle).info
    assert not job.checkpoint.exists()
    assert (info.category, info.detector.name, info.fingerprint) == ("plate", "stfpm", "f" * 64)
    assert info.detector.settings == {
        **job.detector_settings,
        "optimizer": "muon",
        "fusion": "standardised",
    }
    assert info.provenance == job.provenance
    assert info.groups == {"session 0": 4, "session 1": 5}
    assert info.training.device == "cpu"
    assert not info.training.resumed
    assert info.training.seconds > 0
    assert peak_memory_bytes > 50e6
    assert [report.epoch for report in seen] == [0, 1, 2, 3, 4]
    assert [(x.train_loss, x.validation_loss) for x in info.training.losses] == [
        (x.train_loss, x.validation_loss) for x in seen
    ]


def test_a_loaded_bundle_gives_the_scores_that_it_ships(finished: Finished) -> None:
    job, _, _ = finished
    bundle = read_bundle(job.bundle)
    info = bundle.info
    inspector = Inspector(bundle, load_scorer(bundle, "cpu"))
    scores = inspector.mapper.scores(toy_normals(20))
    assert (info.geometry, info.largest_image) == (ONE_TILE, SIDE * SIDE)
    calibration = np.sort(scores[list(PARTS["calibration"])])
    np.testing.assert_allclose(calibration, info.calibration.scores, rtol=1e-4)
    np.testing.assert_allclose(scores[list(PARTS["train"])], info.normal_scores.train, rtol=1e-4)
    np.testing.assert_allclose(
        scores[list(PARTS["validation"])], info.normal_scores.validation, rtol=1e-4
    )


def test_another_region_scores_the_normals_anew_and_trains_nothing(
    finished: Finished, tmp_path: Path
) -> None:
    job, _, _ = finished
    before = read_bundle(job.bundle)
    left = np.zeros((SIDE, SIDE), np.bool_)
    left[:, : SIDE // 2] = True
    Region(left).save(tmp_path / "region.png")

    def rescore(bundle: Bundle, folder: str, region: Path | None) -> Bundle:
        rescored(
            bundle,
            tmp_path / folder,
            region=region,
            store=job.store,
            parts=job.parts,
            device="cpu",
        )
        return read_bundle(tmp_path / folder)

    within = rescore(before, "within", tmp_path / "region.png")
    assert within.info.weights_sha256 == before.info.weights_sha256
    inspector = Inspector(within, load_scorer(within, "cpu"))
    assert inspector.region is not None
    scores = inspector.mapper.scores(toy_normals(20)[list(PARTS["calibration"])])
    np.testing.assert_allclose(np.sort(scores), within.info.calibration.scores, rtol=1e-4)
    lower = np.array(within.info.normal_scores.train) < before.info.normal_scores.train
    assert lower.any()
    everywhere = rescore(within, "everywhere", None)
    assert everywhere.info.region is None
    np.testing.assert_allclose(
        everywhere.info.calibration.scores, before.info.calibration.scores, rtol=1e-4
    )


def test_a_patch_teacher_is_taught_on_photographs_once_for_all_trainings(
    store: Path, tmp_path: Path
) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number, pixels in enumerate(toy_normals(4, first=200)):
        Image.fromarray(pixels).save(photographs / f"{number}.png")
    own = UninformedStudents.Settings(
        student_input="pixels",
        patch_sizes=(33,),
        least_steps=1,
        teacher_steps=1,
        teacher_batch_size=12,
        knowledge_weight=0,
        metric_weight=1,
    ).model_dump(mode="json")
    jobs = [
        make_job(
            tmp_path / str(seed),
            store,
            detector="uninformed_students",
            detector_settings=own,
            training=TrainingSettings(device="cpu", seed=seed, photographs=photographs),
            shared=tmp_path / "shared",
        )
        for seed in (0, 1)
    ]
    phases: list[set[str]] = []
    for job in jobs:
        seen: list[EpochReport] = []
        run_training(job, on_epoch=seen.append)
        phases.append({report.phase for report in seen})
    assert phases == [{"patch teacher 33", "students 33"}, {"students 33"}]
    teaching, taught = (read_bundle(job.bundle).info.training for job in jobs)
    assert teaching.taken_over == {}
    assert 0 < taught.taken_over["patch teacher 33"] < teaching.seconds
    name = "scales.0.teacher.network.convolutions.0.weight"
    first, second = (read_weights(read_bundle(job.bundle))[name] for job in jobs)
    np.testing.assert_array_equal(first, second)


def test_tiles_and_the_region_are_the_bundles(tmp_path: Path) -> None:
    """Half of each image is another noise, and outside the region."""
    images = np.concatenate([toy_normals(20), toy_normals(20, first=100)], axis=2)
    half = np.zeros((SIDE, 2 * SIDE), bool)
    half[:, :SIDE] = True
    Region(half).save(tmp_path / "region.png")
    geometry = tiled([(SIDE, 2 * SIDE)], 1.0, SIDE, 32)
    parts = [len(geometry.tiles(*image.shape[:2])) for image in images]
    assert parts == [3] * 20
    store = write_store(tmp_path / "store", images, geometry)
    job = make_job(
        tmp_path,
        store,
        detector="patchcore",
        detector_settings={"max_patches": 500},
        region=tmp_path / "region.png",
    )
    run(job, lambda *_: None)
    bundle = read_bundle(job.bundle)
    info = bundle.info
    assert (info.geometry, info.largest_image) == (geometry, SIDE * 2 * SIDE)
    inspector = Inspector(bundle, load_scorer(bundle, "cpu"))
    calibration = images[list(PARTS["calibration"])]
    scores = inspector.mapper.scores(calibration)
    np.testing.assert_allclose(np.sort(scores), info.calibration.scores, rtol=1e-4)
    everywhere = replace(inspector.mapper, region=None).scores(calibration)
    assert (scores <= everywhere).all()
    assert (scores < everywhere).any()


PARENT = """
import sys
from stillwatch.training.job import TrainingJob, run_training
job = TrainingJob.model_validate_json(sys.argv[1])
run_training(job, on_epoch=lambda report: print(report.epoch, flush=True))
"""


def test_killed_and_started_again_it_ends_with_the_same_weights(
    store: Path, tmp_path: Path, finished: Finished
) -> None:
    job = make_job(tmp_path, store)
    command = [sys.executable, "-c", PARENT, job.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        while parent.stdout.readline() != "1\n":
            assert parent.poll() is None
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    child.wait(timeout=60)
    assert not job.bundle.exists()
    assert job.checkpoint.exists()

    seen: list[EpochReport] = []
    run_training(job, on_epoch=seen.append)
    assert read_bundle(job.bundle).info.training.resumed
    assert 0 < seen[0].epoch <= 4
    whole = read_weights(read_bundle(finished[0].bundle))
    resumed = read_weights(read_bundle(job.bundle))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def test_what_the_callback_raises_stops_the_child(store: Path, tmp_path: Path) -> None:
    def refuse(_: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(make_job(tmp_path, store), on_epoch=refuse)
    assert running_trainings() == []
    assert not (tmp_path / "bundle").exists()


def running_trainings() -> list[psutil.Process]:
    alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in alive if "stillwatch.training.child" in one.cmdline()]


def test_timeout_stops_the_child(store: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, store, training=TrainingSettings(timeout_minutes=0.01))
    with pytest.raises(TrainingError, match=r"0\.01 minutes and was stopped"):
        run_training(job, on_epoch=lambda _: None)
    assert running_trainings() == []


def test_the_childs_own_sentence_is_raised(store: Path, tmp_path: Path) -> None:
    teacher = TeacherSettings(name="resnet18.tv_in1k", weights_dir=tmp_path)
    with pytest.raises(TrainingError, match=r"plate: teacher .* put resnet18\.tv_in1k"):
        run_training(make_job(tmp_path, store, teacher=teacher), on_epoch=lambda _: None)


def test_a_crash_shows_the_end_of_the_childs_messages(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('this torch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TrainingError, match=r"(?s)exit code 1.*this torch is broken"):
        run_training(make_job(tmp_path, store), on_epoch=lambda _: None)


def test_calibration_images_decide_thresholds_and_nothing_else(store: Path, tmp_path: Path) -> None:
    images = toy_normals(20)
    images[list(PARTS["calibration"])] //= 2
    darker = write_store(tmp_path / "darker", images)
    short = {"detector_settings": {"epochs": 2, "batch_size": 4}}
    bundles = []
    for name, source in (("first", store), ("second", darker)):
        job = make_job(tmp_path / name, source, **short)
        run(job, lambda *_: None)
        bundles.append(read_bundle(job.bundle))
    first, second = bundles
    assert first.info.weights_sha256 == second.info.weights_sha256
    assert first.info.normal_scores == second.info.normal_scores
    assert first.info.calibration != second.info.calibration


def test_too_few_calibration_images_leave_no_bundle(store: Path, tmp_path: Path) -> None:
    calibration = CalibrationSettings(alpha_reject=0.05, alpha_review=0.15)
    short = {"epochs": 1, "batch_size": 4}
    job = make_job(tmp_path, store, calibration=calibration, detector_settings=short)
    with pytest.raises(CalibrationError, match="needs 19 calibration normals and there are 9"):
        run(job, lambda *_: None)
    assert not job.bundle.exists()
