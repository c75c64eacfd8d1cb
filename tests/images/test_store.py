import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_disk import small_disk

from stillwatch.errors import LayoutError, StorageError
from stillwatch.geometry import Geometry, Shape, fitted, tiled
from stillwatch.images.decode import read_image, read_shape, scale_image
from stillwatch.images.layout import Category, scan_category
from stillwatch.images.manifest import build_manifest
from stillwatch.images.store import ImageStore, StoreWriter, mark_used, store_folder, store_writer
from stillwatch.settings import ImageSettings

MakeCategory = Callable[..., Path]
GEOMETRY = fitted([(20, 30)], 8)


def writer_of(
    folder: Path, *paths: str, geometry: Geometry = GEOMETRY
) -> AbstractContextManager[StoreWriter]:
    """For images like ``pixels``."""
    return store_writer(folder, dict.fromkeys(paths, (20, 30)), geometry)


def pixels(seed: int, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "geometry", [fitted([(20, 30)], 16), tiled([(20, 30)], 0.5, 32, 0)], ids=str
)
def test_what_goes_in_comes_out_scaled(tmp_path: Path, geometry: Geometry) -> None:
    folder = tmp_path / "stores" / "bolt"
    images = [pixels(index, 20 + 3 * (index % 4), 30 - index) for index in range(20)]
    paths = [f"train/good/{index}.png" for index in range(20)]
    shapes = {path: image.shape[:2] for path, image in zip(paths, images, strict=True)}
    with store_writer(folder, shapes, geometry) as writer, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: writer.add(paths[index], images[index]), reversed(range(20))))
    store = ImageStore.open(folder)
    assert store.paths == tuple(paths)
    assert store.geometry == geometry
    assert isinstance(store.images[0], np.memmap)
    for stored, image in zip(store.images, images, strict=True):
        np.testing.assert_array_equal(stored, scale_image(image, geometry), strict=True)
    assert len({stored.shape for stored in store.images}) > 1
    for found, index in zip(store.part([paths[7], paths[0]]), (7, 0), strict=True):
        np.testing.assert_array_equal(found, store.images[index])
    assert [entry.name for entry in folder.parent.iterdir()] == ["bolt"]


def test_a_store_is_read_only(tmp_path: Path) -> None:
    with writer_of(tmp_path / "store", "a") as writer:
        writer.add("a", pixels(0))
    with pytest.raises(ValueError, match="read-only"):
        ImageStore.open(tmp_path / "store").images[0][:] = 0


def test_images_that_the_store_lacks(tmp_path: Path) -> None:
    with writer_of(tmp_path / "store", "a") as writer:
        writer.add("a", pixels(0))
        with pytest.raises(KeyError):
            writer.add("b", pixels(0))
    with pytest.raises(StorageError, match=r"does not hold b \(2 images missing\)"):
        ImageStore.open(tmp_path / "store").part(["a", "b", "c"])


def test_nothing_is_left_of_an_incomplete_store(tmp_path: Path) -> None:
    with writer_of(tmp_path / "store", "a", "b") as writer:
        writer.add("a", pixels(0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_an_interrupted_store(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def work() -> None:
        with writer_of(tmp_path / "store", "a") as writer:
            writer.add("a", pixels(0))
            raise error

    with pytest.raises(error):
        work()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_store_both_end_well(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    together = threading.Barrier(4)

    def write(_: int) -> None:
        for _ in range(20):
            with writer_of(folder, "a") as writer:
                writer.add("a", pixels(0))
                together.wait()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    expected = scale_image(pixels(0), GEOMETRY)
    np.testing.assert_array_equal(ImageStore.open(folder).images[0], expected)
    assert list(tmp_path.iterdir()) == [folder]


def damage(folder: Path, how: str) -> None:
    if how == "truncated":
        os.truncate(folder / "images.bin", 50)
    elif how == "empty":
        (folder / "images.bin").write_bytes(b"")
    elif how == "too long":
        (folder / "images.bin").write_bytes(bytes(1000))
    elif how == "no index":
        (folder / "index.json").unlink()
    elif how == "no JSON":
        (folder / "index.json").write_text("[")
    elif how == "no geometry":
        (folder / "index.json").write_text('{"shapes": {}}')


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "too long", "no index", "no JSON", "no geometry"]
)
def test_a_damaged_store_says_what_to_do(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "store"
    with writer_of(folder, "a") as writer:
        writer.add("a", pixels(0))
    damage(folder, how)
    with pytest.raises(StorageError, match=r"store: not a complete store .* delete the folder"):
        ImageStore.open(folder)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a complete store"):
        ImageStore.open(tmp_path / "store")


def test_the_folders_name_has_all_that_the_pixels_depend_on(tmp_path: Path) -> None:
    base = {"category": "bolt", "digest": "ab", "images": ImageSettings(), "white_level": 255}
    changes = [
        {},
        {"category": "nut"},
        {"digest": "cd"},
        {"white_level": 4095},
        {"images": ImageSettings(size=128)},
        {"images": ImageSettings(scale=1.0)},
        {"images": ImageSettings(scale=0.5)},
        {"images": ImageSettings(scale=0.5, overlap=64)},
    ]
    folders = {store_folder(tmp_path, **(base | change)) for change in changes}  # type: ignore[arg-type]
    assert len(folders) == len(changes)
    assert all(tmp_path in folder.parents for folder in folders)
    with pytest.raises(LayoutError):
        store_folder(tmp_path, **(base | {"category": "../x"}))  # type: ignore[arg-type]


def shapes_of(category: Category) -> dict[str, Shape]:
    return {image.path: read_shape(category.folder / image.path) for image in category.images}


def test_the_manifest_fills_the_store_as_inspection_reads_files(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    category = scan_category(make_category(train=5))
    with store_writer(tmp_path / "store", shapes_of(category), GEOMETRY) as writer:
        build_manifest(
            category,
            images=ImageSettings(),
            expected_md5=None,
            parts=None,
            on_pixels=writer.add,
        )
    store = ImageStore.open(tmp_path / "store")
    for row, path in enumerate(store.paths):
        expected = read_image(category.folder / path, GEOMETRY, white_level=255)
        np.testing.assert_array_equal(store.images[row], expected)


def test_a_category_with_a_damaged_image_has_no_store(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    folder = make_category(train=3)
    category = scan_category(folder)
    shapes = shapes_of(category)
    (folder / "train" / "good" / "001.png").write_bytes(b"")
    with store_writer(tmp_path / "store", shapes, GEOMETRY) as writer:
        build_manifest(
            category, images=ImageSettings(), expected_md5=None, parts=None, on_pixels=writer.add
        )
    assert not (tmp_path / "store").exists()


FILE_LIMIT = """
import resource, sys
from pathlib import Path
from stillwatch.errors import StorageError
from stillwatch.geometry import fitted
from stillwatch.images.store import store_writer

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with store_writer(Path(sys.argv[1]), {"a": (256, 256)}, fitted([(256, 256)], 256)):
        raise AssertionError("began to work")
except StorageError as error:
    print(error)
"""


def test_a_limit_on_file_sizes_is_met_before_any_work(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path / 'store'}: larger than a file may be" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_met_before_any_work(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="200k"):
        folder = tmp_path / "disk" / "store"
        message = rf"{folder}: no space left .* nothing half-written was left behind"
        large = writer_of(folder, "a", "b", geometry=fitted([(20, 30)], 256))
        with pytest.raises(StorageError, match=message), large:
            pytest.fail("began to work")
        assert list((tmp_path / "disk").iterdir()) == []
        with writer_of(folder, "a", "b") as writer:
            writer.add("a", pixels(0))
            writer.add("b", pixels(1))
        assert len(ImageStore.open(folder).images) == 2


def test_stores_that_long_were_not_used_are_removed_but_for_the_last_few(tmp_path: Path) -> None:
    day = 24 * 60 * 60
    ages = {"a": 0.0, "b": 0.5, "c": 9.0, "d": 10.0, ".left-by-a-killed-writer": 11.0}
    for name, days in ages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "images.bin").write_bytes(b"pixels")
        os.utime(tmp_path / name, (0, time.time() - days * day))
    mark_used(tmp_path / "d")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "d"}
    os.utime(tmp_path / "b", (0, time.time() - 30 * day))
    mark_used(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "d"}, "three are always kept"
