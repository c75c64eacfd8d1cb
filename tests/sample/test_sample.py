import ast
import hashlib
import inspect
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from benchmarks import sheets
from PIL import Image

from stillwatch.errors import LayoutError, StorageError
from stillwatch.images.layout import category_folders, scan_category
from stillwatch.sample import canvas as sample_canvas
from stillwatch.sample import cloth as sample_cloth
from stillwatch.sample import image_set as sample
from stillwatch.sample import plate as sample_plate
from stillwatch.sample.image_set import SUBJECTS, draw_image, image_key, make_sample_set

pytestmark = pytest.mark.xdist_group("sample set")  # its fixture takes seconds
DEFECTS = [(name, kind) for name, subject in SUBJECTS.items() for kind in subject.defect_types]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    make_sample_set(root)
    return root


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_set_has_the_layout_of_mvtec(root):
    folders = category_folders(root)

    assert sorted(folders) == ["cloth", "plate"]
    for category in map(scan_category, folders.values()):
        assert len(category.train_normals) == 80
        assert len(category.test_normals) == 20
        types = [image.defect_type for image in category.test_anomalies]
        assert sorted(set(types)) == sorted(SUBJECTS[category.name].defect_types)
        assert [types.count(kind) for kind in sorted(set(types))] == [8, 8, 8, 8]
        assert all(image.mask for image in category.test_anomalies)
    assert sorted(path.name for path in root.iterdir()) == ["cloth", "plate"]


def test_images_are_small_and_masks_are_black_and_white(root):
    files = sorted(root.rglob("*.png"))

    for path in files:
        with Image.open(path) as image:
            is_mask = path.name.endswith("_mask.png")
            assert image.size == (256, 256)
            assert image.mode == ("L" if is_mask or "plate" in path.parts else "RGB")
            assert not image.info
            if is_mask:
                assert set(np.unique(np.asarray(image))) == {0, 255}
    assert sum(path.stat().st_size for path in files) <= 12_000_000


@pytest.mark.parametrize(
    ("category", "split", "defect_type", "index", "digest"),
    [
        ("plate", "train", "good", 0, "787510d8b871462b"),
        ("plate", "test", "missing_hole", 6, "39ea70d7a93fe0aa"),
        ("plate", "test", "dent", 0, "e145548c45f9e799"),
        ("cloth", "train", "good", 79, "75f8d00a61d7d55c"),
        ("cloth", "test", "hole", 0, "23c79be65da978fb"),
        ("cloth", "test", "thread", 5, "dadbd6f07cf4b315"),
    ],
)
def test_the_same_seed_gives_the_same_pixels_on_every_machine(
    category, split, defect_type, index, digest
):
    picture = draw_image(category, split, defect_type, index)

    content = picture.pixels.tobytes() + picture.mask.tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == digest


def test_files_hold_what_is_drawn_alone(root):
    picture = draw_image("cloth", "test", "stain", 3)

    assert np.array_equal(read(root / "cloth/test/stain/003.png"), picture.pixels)
    mask = read(root / "cloth/ground_truth/stain/003_mask.png")
    assert np.array_equal(mask == 255, picture.mask)


def test_no_two_images_are_alike(root):
    contents = {path.read_bytes() for path in root.glob("*/t*/*/*.png")}

    assert len(contents) == 264
    other_seed = draw_image("plate", "train", "good", 0, seed=1).pixels
    assert not np.array_equal(other_seed, draw_image("plate", "train", "good", 0).pixels)


@cache
def with_and_without_defect(category, defect_type, index):
    key = image_key(category, "test", defect_type, index)
    flawless = SUBJECTS[category].draw(key, None, 0.0)
    return draw_image(category, "test", defect_type, index), flawless


@pytest.mark.parametrize(("category", "defect_type"), DEFECTS)
@pytest.mark.parametrize("index", [0, 4, 7])
def test_masks_are_exact(category, defect_type, index):
    picture, flawless = with_and_without_defect(category, defect_type, index)

    differs = (picture.pixels != flawless.pixels).reshape(256, 256, -1).any(axis=2)
    assert not flawless.mask.any()
    assert not differs[~picture.mask].any()
    assert differs[picture.mask].mean() > 0.3
    assert 20 < picture.mask.sum() < 0.1 * picture.mask.size


@pytest.mark.parametrize(("category", "defect_type"), DEFECTS)
def test_defects_go_from_obvious_to_subtle(category, defect_type):
    def change(index: int) -> int:
        picture, flawless = with_and_without_defect(category, defect_type, index)
        return int(np.abs(picture.pixels - flawless.pixels.astype(int)).sum())

    assert change(0) > 4 * change(7) > 0


def test_nothing_is_overwritten(tmp_path):
    kept = tmp_path / "cloth" / "mine.png"
    kept.parent.mkdir()
    kept.write_bytes(b"mine")

    with pytest.raises(LayoutError, match="cloth: exists already"):
        make_sample_set(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cloth"]
    assert kept.read_bytes() == b"mine"


def test_a_root_that_cannot_be_written_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")

    with pytest.raises(StorageError, match="cannot be written"):
        make_sample_set(file)
    assert file.read_text() == "not a folder"


EXACT_ON_EVERY_MACHINE = {
    *("abs", "arange", "array", "asarray", "bool_", "concatenate", "float64", "floor", "full"),
    *("full_like", "int32", "int64", "maximum", "minimum", "prod", "random", "repeat", "sqrt"),
    *("uint8", "where", "zeros", "zeros_like"),
}


@pytest.mark.parametrize("module", [sample, sample_canvas, sample_cloth, sample_plate, sheets])
def test_drawing_uses_only_operations_that_are_exact_on_every_machine(module):
    nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    of_numpy = {node.attr for node in attributes if ast.unparse(node.value) == "np"}
    of_random = {node.attr for node in attributes if ast.unparse(node.value) == "np.random"}
    inexact = {"dot", "exp", "interp", "mean", "std", "sum", "var"}

    assert of_numpy <= EXACT_ON_EVERY_MACHINE
    assert of_random <= {"PCG64", "SeedSequence"}
    assert not inexact & {node.attr for node in attributes}
    assert not any(isinstance(node, ast.Pow | ast.MatMult) for node in nodes)
