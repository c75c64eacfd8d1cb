"""Train two categories with settings of their own, and change what needs no training."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_detectors import SIDE, examined, make_images, photograph, small
from made_stores import new_store
from PIL import Image

from stillwatch.bundle import BundleInfo, read_bundle
from stillwatch.settings import CalibrationSettings, Settings, TrainingSettings
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.task import evaluate_detector
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.training.candidates import DetectorSeed
from stillwatch.tasks.training.task import train_detector

pytestmark = pytest.mark.costly

CATEGORIES = ("bolt", "plate")


class Line:
    """Trains and evaluates both categories of an image set."""

    def __init__(self, settings: Settings, images: Path) -> None:
        self.settings, self.images = settings, images
        self.tracking: Tracking = new_store(settings)
        for name in CATEGORIES:
            make_images(images / name)

    def results(self, categories: dict[str, Any]) -> dict[str, DetectorResult]:
        """By category, with these overrides of the settings."""
        values = self.settings.model_dump() | {"categories": categories}
        settings = Settings.model_validate(values)
        return {name: self.result(name, settings.for_category(name)) for name in CATEGORIES}

    def result(self, name: str, own: Settings | None = None) -> DetectorResult:
        """Of one category, with these settings or those of all categories."""
        own = own or self.settings
        category, data = examined(self.images / name, own)
        candidate = DetectorSeed("stfpm", own.training.seed)
        trained = train_detector(category, candidate, data=data, settings=own)
        return evaluate_detector(trained, category, data=data, settings=own)

    def bundle(self, result: DetectorResult) -> BundleInfo:
        with self.tracking.artifact(result.run_id, BUNDLE) as folder:
            return read_bundle(folder).info


@pytest.fixture
def line(settings: Settings, tmp_path: Path) -> Line:
    own = {"training": TrainingSettings(device="cpu"), "detectors": {"stfpm": {"batch_size": 8}}}
    return Line(small(settings).model_copy(update=own), tmp_path / "data")


def test_only_what_a_training_depends_on_retrains_and_only_its_category(line: Line) -> None:
    own = {"plate": {"detectors": {"stfpm": {"epochs": 2}}}}
    own["bolt"] = {"detectors": {"stfpm": {"epochs": 1}}, "training": {"seed": 1}}
    first = line.results(own)
    assert not any(result.reused for result in first.values())
    infos = {name: line.bundle(result) for name, result in first.items()}
    assert {name: info.detector.settings["epochs"] for name, info in infos.items()} == {
        "bolt": 1,
        "plate": 2,
    }
    assert {info.detector.settings["batch_size"] for info in infos.values()} == {8}
    assert {name: info.training.seed for name, info in infos.items()} == {"bolt": 1, "plate": 0}

    Image.fromarray(photograph(5000)).save(line.images / "plate" / "test" / "good" / "new.png")
    alphas = {"calibration": {"alpha_reject": 0.1, "alpha_review": 0.2}}
    free = {"evaluation": {"size": 32}, "gate": {"margin": 0.1}, "retrain": {"select_by": "aupro"}}
    second = line.results({"plate": own["plate"], "bolt": own["bolt"] | alphas | free})
    for name in CATEGORIES:
        assert second[name].reused
        assert second[name].run_id != first[name].run_id, "it is evaluated anew"
        before, after = infos[name], line.bundle(second[name])
        assert after.weights_sha256 == before.weights_sha256
        assert after.fingerprint == before.fingerprint
    assert (second["bolt"].alpha, second["plate"].alpha) == (0.1, 0.05)
    assert (second["bolt"].evaluation_size, second["plate"].evaluation_size) == (32, 64)

    fewer = {"bolt": own["bolt"], "plate": own["plate"] | {"training": {"tiles_per_epoch": 4}}}
    third = line.results(fewer)
    assert (third["bolt"].reused, third["plate"].reused) == (True, False)


def test_another_region_scores_the_normals_anew_and_trains_nothing(line: Line) -> None:
    quick = {"detectors": {"stfpm": {"epochs": 1, "batch_size": 8}}}
    line.settings = line.settings.model_copy(update=quick)
    first = line.result("plate")
    before = line.bundle(first)
    assert before.region is None

    counted = np.zeros((SIDE, SIDE), np.uint8)
    counted[:, : SIDE // 2] = 255
    Image.fromarray(counted).save(line.images / "plate" / "region.png")
    second = line.result("plate")
    after = line.bundle(second)
    assert second.reused
    assert second.run_id != first.run_id
    assert (after.fingerprint, after.weights_sha256) == (before.fingerprint, before.weights_sha256)
    assert after.region is not None
    whole, inside = (np.array(info.normal_scores.train) for info in (before, after))
    assert (inside <= whole * (1 + 1e-4)).all()
    assert (inside < whole * 0.99).any()
    assert line.result("plate").run_id == second.run_id

    category, data = examined(line.images / "plate", line.settings)
    shutil.rmtree(category.folder)  # as on another machine, which needs no image for this
    alphas = CalibrationSettings(alpha_reject=0.1, alpha_review=0.2)
    own = line.settings.model_copy(update={"calibration": alphas})
    third = train_detector(category, DetectorSeed("stfpm", 0), data=data, settings=own)
    assert third.reused
    with line.tracking.artifact(third.run_id, BUNDLE) as folder:
        info = read_bundle(folder).info
    assert (info.region, info.normal_scores) == (after.region, after.normal_scores)
    assert info.calibration.reject.alpha == 0.1
