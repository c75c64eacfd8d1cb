"""A bundle in 8-bit integers: other scores, so thresholds of its own, and its accuracy beside."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from made_bundles import half_white, make_detector_bundle, noise

from stillwatch.bundle import Bundle, read_bundle
from stillwatch.errors import CalibrationError, ExportError
from stillwatch.export.quantized_export import QUANTIZATION_FILE, NormalImages, export_quantized
from stillwatch.inference.inspector import Inspector, score_images
from stillwatch.inference.scorers import open_scorer
from stillwatch.settings import EvaluationSettings

pytestmark = pytest.mark.xdist_group("export")  # its fixtures take seconds

SETTINGS = EvaluationSettings(size=64, bootstrap_resamples=100)
NORMALS = NormalImages(noise(8, seed=5), noise(4, seed=6), noise(24, seed=7))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_detector_bundle(tmp_path_factory.mktemp("float32") / "bundle")


def test_its_thresholds_are_of_its_own_scores_and_its_accuracy_stands_beside(
    bundle: Bundle, tmp_path: Path
) -> None:
    test = half_white()
    found = export_quantized(
        bundle, tmp_path / "int8", NORMALS, test, SETTINGS, {"image_auroc": 0.0}
    )
    exported = read_bundle(tmp_path / "int8")
    scorer = open_scorer(exported)
    calibration, before = exported.info.calibration, bundle.info.calibration
    assert calibration.scores == tuple(sorted(score_images(scorer, NORMALS.calibration).tolist()))
    assert (calibration.reject.alpha, calibration.reject.n) == (before.reject.alpha, 24)
    assert calibration.reject.value != before.reject.value
    assert len(exported.info.normal_scores.train) == 8
    assert json.loads((exported.folder / QUANTIZATION_FILE).read_text()) == asdict(found)
    assert found.images == 8
    assert set(found.float32) == set(found.int8) >= {"image_auroc", "aupro", "ms_per_image"}
    assert found.int8["image_auroc"] == 1.0
    verdicts = [image.verdict for image in Inspector(exported, scorer).inspect(test.images)]
    assert verdicts[4:] == ["reject"] * 4
    trained, quantized = score_images(open_scorer(bundle), test.images), scorer(test.images)
    apart = np.abs(quantized.max((1, 2)) - trained).max() / trained.max()
    assert 0 < apart < 0.2, "near, but not the same: it computes with 8 bits"
    weights = sum(file.stat().st_size for file in exported.folder.glob("*.onnx"))
    assert weights < bundle.info.weights_bytes / 2


def test_nothing_is_left_of_what_cannot_be_calibrated(bundle: Bundle, tmp_path: Path) -> None:
    few = NormalImages(NORMALS.train, NORMALS.validation, noise(5))
    with pytest.raises(CalibrationError, match="alpha_reject"):
        export_quantized(bundle, tmp_path / "int8", few, half_white(), SETTINGS, {})
    assert list(tmp_path.iterdir()) == []


def test_nobodys_files_are_replaced(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="new or empty"):
        export_quantized(bundle, tmp_path, NORMALS, half_white(), SETTINGS, {})


def test_nothing_is_left_of_what_has_lost_too_much(bundle: Bundle, tmp_path: Path) -> None:
    gain_demanded = {"image_auroc": -0.1}
    with pytest.raises(ExportError, match=r"image_auroc is 1\.000, in float32 1\.000. Export"):
        export_quantized(bundle, tmp_path / "int8", NORMALS, half_white(), SETTINGS, gain_demanded)
    assert list(tmp_path.iterdir()) == []
