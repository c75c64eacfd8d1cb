from dataclasses import replace

import numpy as np
import pytest
from made_manifests import make_category, read_manifest

from stillwatch.images.manifest import ImageFacts, Manifest
from stillwatch.tasks.validation.statistics import (
    Neighbour,
    brightness_scale,
    category_statistics,
    near_duplicates,
    robust_z,
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(make_category(tmp_path_factory.mktemp("statistics") / "board"))


def flipped(code: str, bits: int) -> str:
    return f"{int(code, 16) ^ ((1 << bits) - 1):064x}"


def row_named(manifest: Manifest, path: str) -> ImageFacts:
    return next(row for row in manifest.rows if row.path == path)


def test_robust_z_is_in_standard_deviations_of_a_normal_distribution() -> None:
    reference = np.random.default_rng(0).normal(5, 2, 20_000)
    np.testing.assert_allclose(robust_z(np.array([5.0, 9.0]), reference, 0.1), [0, 2], atol=0.05)


def test_identical_references_use_the_floor() -> None:
    assert robust_z(np.array([3.0, 3.2]), np.full(10, 3.0), 0.1) == pytest.approx([0, 2])


def test_an_outlier_among_the_references_hides_neither_itself_nor_another() -> None:
    reference = np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 100.0])
    assert robust_z(np.array([100.0]), reference, 0.01)[0] > 100


def test_black_and_white_are_equally_far_from_mid_grey() -> None:
    black, white = brightness_scale([0.0, 255.0])
    assert black == pytest.approx(-white)


def test_near_duplicates_are_much_closer_than_the_usual_neighbours(
    manifest: Manifest,
) -> None:
    train, test = row_named(manifest, "train/good/007.png"), manifest.rows[0]
    assert test.split == "test"
    assert train.hash is not None
    rows = [replace(test, hash=flipped(train.hash, 3)), *manifest.rows[1:]]
    usual, near = near_duplicates(rows, ratio=0.2)
    assert usual is not None
    assert usual > 15
    assert near == {test.path: (Neighbour(train.path, 3),)}


def test_similar_parts_are_no_near_duplicates(manifest: Manifest) -> None:
    code = manifest.rows[0].hash
    assert code is not None
    alike = [
        replace(row, hash=f"{int(code, 16) ^ (0b11 << (2 * index)):064x}")
        for index, row in enumerate(manifest.rows)
    ]
    usual, near = near_duplicates(alike, ratio=0.2)
    assert usual == 4
    assert near == {}


def test_there_are_no_near_duplicates_if_the_hash_cannot_distinguish_images(
    manifest: Manifest,
) -> None:
    same = [replace(row, hash=manifest.rows[0].hash) for row in manifest.rows]
    assert near_duplicates(same, ratio=0.2) == (None, {})


def test_of_two_close_train_images_only_the_later_is_listed(manifest: Manifest) -> None:
    first = row_named(manifest, "train/good/001.png")
    rows = [
        replace(row, hash=first.hash) if row.path == "train/good/009.png" else row
        for row in manifest.rows
    ]
    _usual, near = near_duplicates(rows, ratio=0.2)
    assert near == {"train/good/009.png": (Neighbour(first.path, 0),)}


def test_images_with_the_same_bytes_are_copies_and_not_near_duplicates(manifest: Manifest) -> None:
    first = row_named(manifest, "train/good/001.png")
    copies = {"train/good/009.png", "test/good/000.png"}
    rows = tuple(
        replace(row, hash=first.hash, md5=first.md5) if row.path in copies else row
        for row in manifest.rows
    )
    found = category_statistics(replace(manifest, rows=rows), near_duplicate_ratio=0.2).images
    assert all(image.near_in_train == () for image in found.values())
    assert found["train/good/009.png"].earlier_copy == first.path
    assert found["train/good/009.png"].copies_in_train == ()
    assert found["test/good/000.png"].copies_in_train == (first.path, "train/good/009.png")
    assert found[first.path].earlier_copy is None


def test_files_that_do_not_decode_are_no_copies_of_each_other(manifest: Manifest) -> None:
    rows = tuple(
        replace(row, md5="d41d8cd98f00b204e9800998ecf8427e", hash=None, decode_error="empty")
        for row in manifest.rows
    )
    found = category_statistics(replace(manifest, rows=rows), near_duplicate_ratio=0.2)
    assert found.usual_size is not None
    assert all(
        image.copies_in_train == () and image.earlier_copy is None
        for image in found.images.values()
    )


def test_anomalies_are_not_judged_by_sharpness_and_exposure(manifest: Manifest) -> None:
    found = category_statistics(manifest, near_duplicate_ratio=0.2).images
    for row in manifest.rows:
        judged = (found[row.path].sharpness_z, found[row.path].exposure_z, found[row.path].clipped)
        assert all((value is None) == (row.defect_type != "good") for value in judged)
