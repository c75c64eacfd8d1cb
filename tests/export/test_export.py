"""A bundle that is exported gives what it gave, and needs no torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absent_packages import NOT_ON_AN_EDGE_BOX, without
from made_bundles import make_detector_bundle, make_small_bundle, make_tiled_bundle, noise
from numpy.typing import NDArray
from PIL import Image

from stillwatch.bundle import (
    GRAPH_FILES,
    SCHEMA_VERSION,
    Bundle,
    GraphFormat,
    read_bundle,
    read_weights,
    recalibrated,
)
from stillwatch.detectors.patchcore import PatchCore
from stillwatch.errors import BundleError, ExportError
from stillwatch.export import export
from stillwatch.export.export import PARITY_FILE, export_bundle
from stillwatch.images.region import Region
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.parity import Parity
from stillwatch.inference.scorers import open_scorer
from stillwatch.inference.torch_scorer import TorchScorer

pytestmark = [pytest.mark.costly, pytest.mark.xdist_group("export")]

FORMATS: tuple[GraphFormat, ...] = ("onnx", "openvino")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_detector_bundle(tmp_path_factory.mktemp("export") / "bundle")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Exported in a quarter of the time."""
    return make_small_bundle(tmp_path_factory.mktemp("export") / "small")


@pytest.fixture(scope="module", params=FORMATS)
def exported(
    bundle: Bundle, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    folder = tmp_path_factory.mktemp("exported") / request.param
    export_bundle(bundle, folder, request.param, noise(5, seed=1))
    return read_bundle(folder)


def test_verdicts_and_maps_are_the_detectors(bundle: Bundle, exported: Bundle) -> None:
    images = noise(7, seed=2)
    images[:2, :32] = 255
    trained = list(Inspector(bundle, open_scorer(bundle)).inspect(images))
    tolerance = 1e-4 * bundle.info.calibration.reject.value
    for batch_size in (1, 3, 7):
        found = list(Inspector(exported, open_scorer(exported), batch_size).inspect(images))
        assert [image.verdict for image in found] == [image.verdict for image in trained]
        for one, other in zip(found, trained, strict=True):
            np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, rtol=0, atol=tolerance)
    assert {image.verdict for image in trained} == {"pass", "reject"}


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_tiles_and_the_region_are_the_detectors(runtime: str, tmp_path: Path) -> None:
    """Defects over several tiles and outside the region; an image below a tile, and a large one."""
    shape = 80, 144
    counted = np.ones(shape, bool)
    counted[:, 100:] = False
    bundle = make_tiled_bundle(tmp_path / "bundle", Region(counted))
    images = list(noise(4, shape, seed=1))
    images[1][:, 20:90] = 255
    images[2][:, 120:] = 255
    images += [noise(1, (20, 30), seed=2)[0], noise(1, (150, 100), seed=3)[0]]
    parity = export_bundle(bundle, tmp_path / "out", runtime, images)
    assert (parity.images, parity.problem) == (6, None)
    exported = read_bundle(tmp_path / "out")
    assert exported.info.region == bundle.info.region
    trained, found = (
        list(Inspector(one, open_scorer(one, "cpu"), batch_size=3).inspect(images))
        for one in (bundle, exported)
    )
    assert [one.verdict for one in found] == [one.verdict for one in trained]
    assert [one.note for one in found] == [one.note for one in trained]
    assert {one.verdict for one in found[:4]} == {"pass", "reject"}
    assert found[5].note is not None
    for image in found[:4]:
        assert image.anomaly_map[:, 26:].max() == image.anomaly_map.min()


def test_it_says_what_it_holds_and_how_near_it_comes(bundle: Bundle, exported: Bundle) -> None:
    assert exported.info.graph is not None
    names = {path.name for path in exported.folder.iterdir()}
    assert names == {"bundle.json", PARITY_FILE, *exported.info.graph.files}
    same = {"graph": None, "schema_version": SCHEMA_VERSION}
    assert exported.info.model_copy(update=same) == bundle.info
    parity = Parity(**json.loads((exported.folder / PARITY_FILE).read_text()))
    assert (parity.images, parity.problem) == (5, None)
    assert max(parity.score_difference, parity.map_difference) <= parity.tolerance


def test_damage_is_found_by_file(exported: Bundle, tmp_path: Path) -> None:
    for name in exported.info.files:
        copy = recalibrated(exported, tmp_path / name, alpha_reject=0.1, alpha_review=0.2)
        data = bytearray((copy.folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy.folder / name).unlink()  # it is a link
        (copy.folder / name).write_bytes(data)
        with pytest.raises(BundleError, match=rf"{name}: its sha256 .* damaged or was replaced"):
            read_bundle(copy.folder)


def test_a_graph_is_no_weights(exported: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"weights\.safetensors: cannot be read"):
        read_weights(exported)
    with pytest.raises(ExportError, match="is an exported bundle already"):
        export_bundle(exported, tmp_path / "again", "onnx", noise(1))


ON_AN_EDGE_BOX = """
import json
from pathlib import Path
from stillwatch.bundle import read_bundle
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.scorers import open_scorer

bundle = read_bundle(Path(sys.argv[1]))
inspector = Inspector(bundle, open_scorer(bundle))
found = [inspector.inspect_file(Path(path)).image for path in sys.argv[2:]]
print(json.dumps([(image.verdict, image.score, int(image.mask.sum())) for image in found]))
"""


def test_files_are_inspected_where_there_is_no_torch(
    bundle: Bundle, exported: Bundle, tmp_path: Path
) -> None:
    paths = []
    images = noise(4, (90, 90), seed=3)
    images[0] = 255
    for number, pixels in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    code = without(NOT_ON_AN_EDGE_BOX | {"typer", "rich"}, ON_AN_EDGE_BOX)
    command = [sys.executable, "-c", code, str(exported.folder), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    inspector = Inspector(bundle, open_scorer(bundle, "cpu"))
    trained = [inspector.inspect_file(path).image for path in paths]
    for (verdict, score, pixels), image in zip(json.loads(done.stdout), trained, strict=True):
        assert verdict == image.verdict
        np.testing.assert_allclose(score, image.score, rtol=1e-4)
        assert (pixels > 0) == (verdict == "reject")


def test_a_graph_that_gives_other_maps_is_refused(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Brighter(TorchScorer):
        def __call__(self, tiles: NDArray[np.uint8], /) -> list[NDArray[np.float32]]:
            return [level * np.float32(1.001) for level in super().__call__(tiles)]

    def brighter(bundle: Bundle, device: str) -> TorchScorer:
        scorer = open_scorer(bundle, device)
        assert isinstance(scorer, TorchScorer)
        return Brighter(scorer.detector, scorer.device)

    monkeypatch.setattr(export, "load_scorer", brighter)
    with pytest.raises(ExportError, match=r"is not the detector \(image \d .*nothing was exported"):
        export_bundle(small, tmp_path / "out", "onnx", noise(5, seed=1))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match="no image to compare"):
        export_bundle(bundle, tmp_path / "out", "onnx", noise(0))
    monkeypatch.setattr(PatchCore, "exportable", False)
    with pytest.raises(ExportError, match="'patchcore' cannot be exported"):
        export_bundle(bundle, tmp_path / "out", "onnx", noise(1))
    assert list(tmp_path.iterdir()) == []


def test_nobodys_files_are_replaced(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ExportError, match="new or empty"):
            export_bundle(bundle, folder, "onnx", noise(1))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("graph_format", "package"), [("onnx", "onnxscript"), ("openvino", "openvino")]
)
def test_an_exporter_that_is_not_installed_is_named(
    small: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    graph_format: GraphFormat,
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf"{package}.*pip install 'stillwatch\[export\]'"):
        export_bundle(small, tmp_path / "out", graph_format, noise(1))


def test_a_runtime_that_is_missing_or_too_old_is_named(
    exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = exported.info.graph
    assert graph is not None
    name = GRAPH_FILES[graph.format][0]
    copy = recalibrated(exported, tmp_path / "copy", alpha_reject=0.1, alpha_review=0.2)
    (copy.folder / name).unlink()
    (copy.folder / name).write_text("of the future")
    with pytest.raises(BundleError, match=rf"{name}: .* cannot load it"):
        open_scorer(copy)
    monkeypatch.setitem(sys.modules, {"onnx": "onnxruntime"}.get(graph.format, "openvino"), None)
    with pytest.raises(BundleError, match=r"needs .*pip install 'stillwatch\[edge\]'"):
        open_scorer(exported)
