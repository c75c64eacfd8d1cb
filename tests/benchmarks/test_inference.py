"""The benchmark of the runtimes."""

from pathlib import Path

import pytest
from benchmarks.inference import exported
from benchmarks.inference_page import render
from made_bundles import make_small_bundle, noise


@pytest.mark.slow
def test_a_page_of_three_runtimes(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    found = exported(bundle, list(noise(8, seed=2)), timed=2, rounds=2)
    for times in found["milliseconds"].values():
        assert 0 < times["median"] <= times["p95"]
        assert times["per_megapixel"] > 100 * times["median"], "an image of 64 × 64 pixels"
    page = render(
        [
            {
                "commit": "0123456789abcdef",
                "machine": "a machine",
                "versions": {"PyTorch": "2.0"},
                "category": "plate",
                "detector": "autoencoder",
                "teacher": "none",
                "geometry": str(bundle.info.geometry),
                **found,
            }
        ]
    )
    assert "commit 0123456789, a machine." in page
    assert "| plate | autoencoder | none, 64×64 | OpenVINO |" in page
