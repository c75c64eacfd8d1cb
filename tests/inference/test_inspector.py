import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bundles import SIZE, brightness, image_of, make_bundle
from numpy.typing import NDArray
from PIL import Image

from stillwatch.bundle import Bundle
from stillwatch.errors import DetectorError, ImageError
from stillwatch.inference.inspector import (
    InspectedImage,
    Inspector,
    bilinear,
    find_images,
    resize_map,
    resize_mask_keeping_rejection,
    score_images,
)


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
    np.testing.assert_array_equal(score_images(brightness, images, batch_size), scores)


def test_one_batch_is_in_memory_at_a_time(bundle: Bundle) -> None:
    sizes: list[int] = []

    def counting(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(images))
        return brightness(images)

    stream = Inspector(bundle, counting, batch_size=4).inspect(
        np.zeros((10, SIZE, SIZE, 3), np.uint8)
    )
    assert sizes == []
    next(stream)
    assert sizes == [4]
    assert len(list(stream)) == 9
    assert sizes == [4, 4, 2]


def test_no_image_has_no_result(bundle: Bundle) -> None:
    nothing = np.empty((0, SIZE, SIZE, 3), np.uint8)
    assert list(Inspector(bundle, brightness).inspect(nothing)) == []
    assert score_images(brightness, nothing).shape == (0,)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, SIZE, SIZE + 1, 3), np.uint8),
        np.zeros((1, SIZE, SIZE, 3), np.float32),
        np.zeros((SIZE, SIZE, 3), np.uint8),
    ],
)
def test_images_of_another_kind_are_refused(bundle: Bundle, images: NDArray[np.uint8]) -> None:
    with pytest.raises(DetectorError, match=r"\(N, 16, 16, 3\)"):
        list(Inspector(bundle, brightness).inspect(images))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_no_number_never_passes(bundle: Bundle, bad: float) -> None:
    def broken(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        maps = brightness(images)
        maps[0, 0, 0] = bad
        return maps

    image = image_of(5)[None]
    with pytest.raises(DetectorError, match="not finite"):
        list(Inspector(bundle, broken).inspect(image))
    with pytest.raises(DetectorError, match="not finite"):
        score_images(broken, image)


def test_a_scorer_that_breaks_its_contract_is_refused() -> None:
    image = image_of(5)[None]
    with pytest.raises(DetectorError, match="float64"):
        score_images(lambda images: brightness(images).astype(np.float64), image)  # type: ignore[arg-type, return-value]
    with pytest.raises(DetectorError, match=r"\(1, 8, 8\)"):
        score_images(lambda images: brightness(images)[:, ::2, ::2], image)


def test_a_file_is_judged_as_its_pixels_and_keeps_its_own_size(
    bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "part.png"
    pixels = np.full((40, 60, 3), 180, np.uint8)
    Image.fromarray(pixels).save(path)
    inspector = Inspector(bundle, brightness)
    found = inspector.inspect_file(path)
    assert (found.path, found.width, found.height) == (path, 60, 40)
    np.testing.assert_array_equal(found.pixels, pixels)
    assert (found.image.score, found.image.verdict) == (180, "reject")
    batch = inspector.read(path)[None]
    assert next(inspector.inspect(batch)).score == found.image.score


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


MAPS = st.builds(
    lambda seed, shape, levels: (
        np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32) / 7
    ),
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from([1, 2, 1000]),
)
SIDE = st.integers(1, 60)


@settings(max_examples=200)
@given(MAPS, SIDE, SIDE)
def test_a_resized_map_crosses_the_thresholds_that_the_map_crosses(
    anomaly_map: NDArray[np.float32], height: int, width: int
) -> None:
    before = anomaly_map.copy()
    resized = resize_map(anomaly_map, height, width)
    assert (resized.shape, resized.dtype) == ((height, width), np.float32)
    assert resized.max() == anomaly_map.max()
    assert resized.min() >= anomaly_map.min()
    np.testing.assert_array_equal(anomaly_map, before)


@settings(max_examples=200)
@given(MAPS, st.floats(0, 1), SIDE, SIDE)
def test_a_resized_mask_has_a_pixel_exactly_when_the_mask_has(
    anomaly_map: NDArray[np.float32], threshold: float, height: int, width: int
) -> None:
    mask = anomaly_map > threshold
    resized = resize_mask_keeping_rejection(mask, height, width)
    assert (resized.shape, resized.dtype) == ((height, width), np.bool_)
    assert resized.any() == mask.any()


def test_the_peak_stays_where_it_was() -> None:
    anomaly_map = np.zeros((16, 16), np.float32)
    anomaly_map[12, 3] = 1
    for height, width in ((4, 4), (64, 32), (5, 50)):
        rows, columns = np.nonzero(resize_map(anomaly_map, height, width) == 1)
        assert abs((rows + 0.5) / height - 12.5 / 16).max() <= 1 / min(height, 16)
        assert abs((columns + 0.5) / width - 3.5 / 16).max() <= 1 / min(width, 16)


def test_bilinear_is_half_pixel_and_keeps_its_edges() -> None:
    row = np.array([[0, 1]], np.float32)
    np.testing.assert_allclose(bilinear(row, 1, 4), [[0, 0.25, 0.75, 1]])
    np.testing.assert_allclose(bilinear(np.array([[0, 1, 4, 9]], np.float32), 1, 2), [[0.5, 6.5]])
    assert bilinear(row, 1, 2) is row


def test_images_are_found_in_folders_and_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/2.jpg", "a/1.tif", "a/notes.txt", ".hidden/x.png", "a/.y.png", "raw"):
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
    code = "import sys; import stillwatch.evaluation; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
