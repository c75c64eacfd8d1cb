"""The benchmark of the runtimes."""

import json
import sys
from pathlib import Path

import pytest
from made_bundles import make_detector_bundle, noise
from PIL import Image

from benchmarks import inference


def test_a_table_of_three_runtimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_detector_bundle(tmp_path / "bundle")
    for number, pixels in enumerate(noise(3)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    out = tmp_path / "inference.json"
    arguments = [str(bundle.folder), "--images", str(tmp_path), "--rounds", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["inference", *arguments])
    inference.main()
    result = json.loads(out.read_text())
    assert (result["detector"], result["images"]) == ("patchcore", 3)
    table = capsys.readouterr().out
    for name in ("PyTorch", "ONNX Runtime", "OpenVINO"):
        assert f"\n{name} " in table
        assert 0 < result["runtimes"][name]["median_ms"] <= result["runtimes"][name]["p95_ms"]
