"""The benchmark of the runtimes."""

from pathlib import Path

from benchmarks.inference import exported
from benchmarks.inference_page import render
from made_bundles import half_white, make_detector_bundle, noise

from stillwatch.export.quantized_export import NormalImages, Quantization, export_quantized
from stillwatch.settings import EvaluationSettings


def test_a_page_of_three_runtimes_and_int8(tmp_path: Path) -> None:
    bundle = make_detector_bundle(tmp_path / "bundle")
    test = half_white()

    def quantize(folder: Path) -> Quantization:
        normals = NormalImages(noise(8, seed=1), noise(4, seed=2), noise(20, seed=3))
        settings = EvaluationSettings(size=64, bootstrap_resamples=100)
        return export_quantized(bundle, folder, normals, test, settings, {})

    found = exported(bundle, test.images, quantize, timed=2, rounds=2)
    for times in found["milliseconds"].values():
        assert 0 < times["median"] <= times["p95"]
    page = render(
        [
            {
                "commit": "0123456789abcdef",
                "machine": "a machine",
                "versions": {"PyTorch": "2.0"},
                "category": "plate",
                "detector": "patchcore",
                "teacher": "net",
                "image_size": 64,
                **found,
            }
        ]
    )
    assert "commit 0123456789, a machine." in page
    assert "| plate | patchcore | net, 64 | OpenVINO |" in page
    assert f"{found['quantization']['int8']['image_auroc']:.3f} | " in page
