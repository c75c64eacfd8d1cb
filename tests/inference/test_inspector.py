import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bundles import SIZE, TILED, brightness, image_of, make_bundle
from numpy.typing import NDArray
from PIL import Image

from stillwatch.bundle import Bundle, read_bundle
from stillwatch.errors import DetectorError, ImageError
from stillwatch.geometry import fitted, tiled
from stillwatch.images.decode import scale_image
from stillwatch.images.region import Region
from stillwatch.inference.inspector import InspectedImage, Inspector, find_images
from stillwatch.settings import ImageSettings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Rejects above a score of 100, reviews above 98."""
    return make_bundle(tmp_path_factory.mktemp("inspection") / "bundle")


def inspect(bundle: Bundle, *scores: int) -> list[InspectedImage]:
    return list(Inspector(bundle, brightness).inspect(np.stack([image_of(s) for s in scores])))


def test_score_verdict_mask_and_p_value_of_each_image(bundle: Bundle) -> None:
    found = inspect(bundle, 20, 98, 99, 100, 101)
    assert [image.score for image in found] == [20, 98, 99, 100, 101]
    assert [image.verdict for image in found] == ["pass", "pass", "review", "review", "reject"]
    assert [image.p_value for image in found] == [1, 4 / 21, 3 / 21, 2 / 21, 1 / 21]
    assert [int(image.mask.sum()) for image in found] == [0, 0, 0, 0, 1]
    assert found[-1].mask[3, 5]
    assert found[-1].anomaly_map.dtype == np.float32


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.integers(1, 50))
def test_batches_do_not_matter_and_masks_are_there_exactly_when_rejected(
    bundle: Bundle, scores: list[int], batch_size: int
) -> None:
    images = np.stack([image_of(score) for score in scores])
    found = list(Inspector(bundle, brightness, batch_size).inspect(images))
    assert [image.score for image in found] == scores
    assert [image.mask.any() for image in found] == [i.verdict == "reject" for i in found]


def test_the_map_of_an_image_of_one_pixel_covers_that_pixel(tmp_path: Path) -> None:
    tiled_bundle = make_bundle(tmp_path / "bundle", geometry=TILED)
    (found,) = Inspector(tiled_bundle, brightness).inspect([np.full((1, 1, 3), 99, np.uint8)])
    assert found.extent == (1.0, 1.0)


def test_no_image_has_no_result(bundle: Bundle) -> None:
    assert list(Inspector(bundle, brightness).inspect([])) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((SIZE, SIZE + 1, 3), np.uint8),
        np.zeros((SIZE - 1, SIZE - 1, 3), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.float32),
        np.zeros((SIZE, SIZE), np.uint8),
        np.zeros((SIZE, SIZE, 4), np.uint8),
    ],
)
def test_images_of_another_kind_are_refused(bundle: Bundle, image: NDArray[np.uint8]) -> None:
    with pytest.raises(DetectorError, match=r"\(h, w, 3\), scaled to fit into 16×16 pixels"):
        list(Inspector(bundle, brightness).inspect([image]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_no_number_never_passes(bundle: Bundle, bad: float) -> None:
    def broken(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        (level,) = brightness(tiles)
        level[0, 0, 0] = bad
        return [level]

    with pytest.raises(DetectorError, match="not finite"):
        list(Inspector(bundle, broken).inspect([image_of(5)]))


def test_a_file_is_judged_as_its_pixels_and_keeps_its_own_size(
    bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "part.png"
    pixels = np.full((40, 60, 3), 180, np.uint8)
    Image.fromarray(pixels).save(path)
    inspector = Inspector(bundle, brightness)
    found = inspector.inspect_file(path)
    np.testing.assert_array_equal(found.pixels, pixels)
    assert (found.image.score, found.image.verdict) == (180, "reject")
    image = inspector.read(path)
    assert image.shape == (11, 16, 3)
    assert next(inspector.inspect([image])).score == found.image.score
    assert found.image.map_at(40, 60).shape == found.image.mask_at(40, 60).shape == (40, 60)


def test_sixteen_bits_are_scaled_as_in_training(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    Image.fromarray(np.full((SIZE, SIZE), 2000, np.uint16)).save(path)
    bundle = make_bundle(tmp_path / "bundle", white_level=4095)
    assert Inspector(bundle, brightness).inspect_file(path).image.score == round(2000 * 255 / 4095)


def test_files_that_are_no_images_are_refused_by_name(bundle: Bundle, tmp_path: Path) -> None:
    inspector = Inspector(bundle, brightness)
    (tmp_path / "text.png").write_text("not an image")
    for name in ("text.png", "missing.png"):
        with pytest.raises(ImageError, match=name):
            inspector.inspect_file(tmp_path / name)


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("scale", ["fit", 1.0])
def test_unequal_shapes_in_one_category(tmp_path: Path, scale: str | float) -> None:
    """Portrait among landscape, larger and smaller than a tile."""
    shapes = [(60, 100), (100, 60), (20, 20), (300, 6)]
    geometry = ImageSettings.model_validate({"scale": scale, "size": 64}).geometry(shapes[:1])
    bundle = make_bundle(tmp_path / "bundle", geometry=geometry, largest_image=100 * 60)
    inspector = Inspector(bundle, brightness)
    files = [inspector.inspect_file(save(tmp_path / "a.png", white(*shape))) for shape in shapes]
    together = list(inspector.inspect(scale_image(white(*shape), geometry) for shape in shapes))
    for file, image, shape in zip(files, together, shapes, strict=True):
        scaled = geometry.scaled_shape(*shape)
        assert file.image.anomaly_map.shape == scaled
        np.testing.assert_array_equal(file.image.anomaly_map, image.anomaly_map)
        assert file.pixels.shape[:2] == shape
        assert file.image.verdict == "reject"
        assert file.image.mask_at(*shape).shape == shape


def white(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 255, np.uint8)


@pytest.mark.parametrize(
    ("score", "verdict", "larger"),
    [(20, "pass", "review"), (99, "review", "review"), (101, "reject", "reject")],
)
def test_an_image_larger_than_any_calibration_image_is_reviewed_at_least(
    tmp_path: Path, score: int, verdict: str, larger: str
) -> None:
    geometry = tiled([(32, 32)], 1.0, 32, 0)
    bundle = make_bundle(tmp_path / "bundle", geometry=geometry, largest_image=40 * 40)
    pixels = np.zeros((40, 41, 3), np.uint8)
    pixels[3, 5] = score
    as_large, beyond = Inspector(bundle, brightness).inspect([pixels[:, :40], pixels])
    assert (as_large.verdict, as_large.note) == (verdict, None)
    assert (beyond.verdict, beyond.score) == (larger, score)
    assert "1,640 pixels after scaling and no calibration image has more than 1,600" in str(
        beyond.note
    )
    assert beyond.mask.any() == (larger == "reject")


def test_a_defect_outside_the_region_changes_neither_score_nor_mask(tmp_path: Path) -> None:
    counted = np.zeros((20, 20), bool)
    counted[:, :10] = True
    Region(counted).save(tmp_path / "drawn.png")
    bundle = make_bundle(
        tmp_path / "bundle",
        tmp_path / "drawn.png",
        geometry=fitted([(20, 20)], 20),
        largest_image=20 * 20,
    )
    inspector = Inspector(read_bundle(bundle.folder), brightness)
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[4, 4] = 30
    normal = inspector.inspect_file(save(tmp_path / "normal.png", pixels)).image
    pixels[4, 12] = 255
    outside = inspector.inspect_file(save(tmp_path / "outside.png", pixels)).image
    assert (outside.score, outside.verdict) == (normal.score, normal.verdict) == (30, "pass")
    assert not outside.mask.any()
    assert not outside.mask_at(20, 20).any()
    pixels[4, 9] = 255
    inside = inspector.inspect_file(save(tmp_path / "inside.png", pixels)).image
    assert inside.verdict == "reject"
    assert np.argwhere(inside.mask).tolist() == [[4, 9]]


def test_an_image_of_another_size_than_the_region_is_refused(tmp_path: Path) -> None:
    Region(np.ones((20, 30), bool)).save(tmp_path / "drawn.png")
    bundle = make_bundle(tmp_path / "bundle", tmp_path / "drawn.png")
    inspector = Inspector(bundle, brightness)
    inspector.inspect_file(save(tmp_path / "same.png", np.zeros((20, 30, 3), np.uint8)))
    path = save(tmp_path / "other.png", np.zeros((20, 31, 3), np.uint8))
    with pytest.raises(ImageError, match=r"other\.png: is 31×20 pixels, .* for images of 30×20\. "):
        inspector.inspect_file(path)


def test_images_are_found_in_folders_and_by_name(tmp_path: Path) -> None:
    for name in (
        "b.PNG",
        "a/2.jpg",
        "a/1.tif",
        "a/notes.txt",
        ".hidden/x.png",
        "a/.y.png",
        "@eaDir/t.png",
        "raw",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    in_folder = [tmp_path / name for name in ("a/1.tif", "a/2.jpg", "b.PNG")]
    assert find_images([tmp_path]) == in_folder
    named = [tmp_path / "raw", tmp_path / "a", tmp_path / "a/2.jpg"]
    assert find_images(named) == [tmp_path / "raw", *in_folder[:2]]


def test_paths_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing: no such file"):
        find_images([tmp_path / "missing"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match="holds no image"):
        find_images([tmp_path])


def test_torch_is_not_needed() -> None:
    code = "import sys; import stillwatch.evaluation.evaluation; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
