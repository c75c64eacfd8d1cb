import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from stillwatch.errors import SettingsError, StorageError
from stillwatch.images.layout import scan_category
from stillwatch.images.manifest import (
    ImageFacts,
    Manifest,
    build_manifest,
    hash_distance_matrix,
    perceptual_hash,
)
from stillwatch.images.region import Region
from stillwatch.machine.threads import THREADS
from stillwatch.settings import ImageSettings

MakeCategory = Callable[..., Path]


def manifest_of(folder: Path, **options: Any) -> Manifest:
    given = {"images": ImageSettings(), "expected_md5": None, "parts": None} | options
    return build_manifest(scan_category(folder), **given)


def row(folder: Path, path: str, **options: Any) -> ImageFacts:
    return next(facts for facts in manifest_of(folder, **options).rows if facts.path == path)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_a_row_for_every_image_in_the_categorys_order(make_category: MakeCategory) -> None:
    folder = make_category("bolt", train=7, test=2, anomalies=3)
    manifest = manifest_of(folder)
    assert manifest.category == "bolt"
    assert manifest.white_level == 255
    assert [facts.path for facts in manifest.rows] == [
        image.path for image in scan_category(folder).images
    ]
    assert {facts.split for facts in manifest.rows} == {"train", "test"}
    assert all(facts.decode_error is None for facts in manifest.rows)


def test_the_facts_of_an_image(make_category: MakeCategory) -> None:
    folder = make_category(train=1)
    path = folder / "train" / "good" / "000.png"
    samples = np.zeros((30, 40, 3), np.uint8)
    samples[:15] = [255, 128, 0]
    Image.fromarray(samples).save(path)
    facts = row(folder, "train/good/000.png")
    assert facts.md5 == md5(path)
    assert (facts.width, facts.height, facts.mode) == (40, 30, "RGB")
    luma = round(0.299 * 255 + 0.587 * 128)
    assert facts.mean == pytest.approx(luma / 2, abs=0.5)
    assert facts.std == pytest.approx(luma / 2, abs=0.5)
    assert facts.clipped == pytest.approx((0.5 * 2 + 0.5 * 3) / 3)
    assert facts.mask is None
    assert facts.mask_area is None
    assert facts.group is None


def test_blur_lowers_sharpness_and_light_moves_the_mean(make_category: MakeCategory) -> None:
    folder = make_category(train=3)
    image = Image.fromarray(np.random.default_rng(0).integers(60, 90, (80, 80)).astype(np.uint8))
    image.save(folder / "train" / "good" / "000.png")
    image.filter(ImageFilter.GaussianBlur(2)).save(folder / "train" / "good" / "001.png")
    image.point(lambda level: level + 100).save(folder / "train" / "good" / "002.png")
    sharp, blurred, bright = (row(folder, f"train/good/00{index}.png") for index in range(3))
    assert blurred.sharpness is not None
    assert sharp.sharpness is not None
    assert sharp.mean is not None
    assert blurred.sharpness < sharp.sharpness / 20
    assert bright.sharpness == pytest.approx(sharp.sharpness)
    assert bright.mean == pytest.approx(sharp.mean + 100)


def test_sharpness_does_not_depend_on_the_number_of_pixels(make_category: MakeCategory) -> None:
    folder = make_category(train=3)
    blocks = np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)
    Image.fromarray(blocks).save(folder / "train" / "good" / "000.png")
    doubled = np.kron(blocks, np.ones((2, 2), np.uint8))
    Image.fromarray(doubled).save(folder / "train" / "good" / "001.png")
    fine = np.random.default_rng(1).integers(0, 256, (1024, 1024)).astype(np.uint8)
    Image.fromarray(fine).save(folder / "train" / "good" / "002.png")
    small, large, averaged = (facts.sharpness for facts in manifest_of(folder).rows[-3:])
    assert small == large
    assert averaged == pytest.approx(small / 4, rel=0.05)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"hello", "not a PNG"), (b"\x89PNG\r\n\x1a\nxx", "damaged or cut short")],
)
def test_a_file_that_is_no_image_is_a_row(
    make_category: MakeCategory, content: bytes, reason: str
) -> None:
    folder = make_category(train=2)
    path = folder / "train" / "good" / "001.png"
    path.write_bytes(content)
    facts = row(folder, "train/good/001.png")
    assert facts.decode_error
    assert reason in facts.decode_error
    assert str(path) in facts.decode_error
    assert facts.md5 == md5(path)
    assert (facts.width, facts.mode, facts.mean, facts.sharpness, facts.hash) == (None,) * 5
    assert row(folder, "train/good/000.png").decode_error is None


def test_a_file_that_vanishes_is_a_row(make_category: MakeCategory) -> None:
    category = scan_category(make_category(train=2))
    (category.folder / "train" / "good" / "001.png").unlink()
    facts = build_manifest(category, images=ImageSettings(), expected_md5=None, parts=None).rows[-1]
    assert facts.decode_error
    assert "cannot be read" in facts.decode_error
    assert facts.md5 == ""


def test_an_image_larger_than_allowed_is_a_row(make_category: MakeCategory) -> None:
    facts = row(make_category(), "train/good/000.png", images=ImageSettings(max_megapixels=0.001))
    assert "images.max_megapixels" in (facts.decode_error or "")


def test_parts_and_expected_digests_are_put_beside_the_facts(make_category: MakeCategory) -> None:
    folder = make_category(train=3)
    parts = {"train/good/000.png": "calibration", "train/good/001.png": "duplicate"}
    expected = {"train/good/000.png": "0" * 32}
    rows = manifest_of(folder, parts=parts, expected_md5=expected).rows
    found = {facts.path: (facts.part, facts.expected_md5) for facts in rows}
    assert found["train/good/000.png"] == ("calibration", "0" * 32)
    assert found["train/good/001.png"] == ("duplicate", None)
    assert found["train/good/002.png"] == ("unassigned", None)
    assert found["test/good/000.png"] == ("test", None)


def test_groups(make_category: MakeCategory) -> None:
    folder = make_category(train=1)
    assert row(folder, "train/good/000.png", group_pattern=r"^(\d)").group == "0"
    with pytest.raises(SettingsError, match="group_pattern"):
        manifest_of(folder, group_pattern="(")


def test_the_facts_of_a_region(make_category: MakeCategory) -> None:
    folder = make_category(train=1, test=0, anomalies=2)
    assert manifest_of(folder).region is None
    assert manifest_of(folder).rows[0].mask_area_in_region is None
    counted = np.zeros((30, 40), np.uint8)
    counted[12:, :22] = 1  # of the defect at rows 10 to 13 and columns 20 to 24: 2 × 2 pixels
    Image.fromarray(counted).save(folder / "region.png")
    Image.new("1", (40, 31), 1).save(folder / "ground_truth/scratch/001_mask.png")
    manifest = manifest_of(folder, expected_md5={"region.png": md5(folder / "region.png")})
    region = manifest.region
    assert region is not None
    assert (region.path, region.width, region.height) == ("region.png", 40, 30)
    assert (region.share, region.error) == (18 * 22 / 1200, None)
    assert region.digest == Region(counted > 0).digest
    assert [row.mask_area_in_region for row in manifest.rows] == [4, None, None]
    changed = manifest_of(folder, expected_md5={"region.png": "0" * 32}).region
    assert changed is not None
    assert "differs from the file that the data version lists" in (changed.error or "")
    (folder / "ignore.png").touch()
    both = manifest_of(folder).region
    assert both is not None
    assert (both.digest, both.share) == (None, None)
    assert "has both region.png and ignore.png" in (both.error or "")


def test_the_facts_of_masks(make_category: MakeCategory) -> None:
    folder = make_category(anomalies=3)
    masks = folder / "ground_truth" / "scratch"
    (masks / "001_mask.png").unlink()
    (masks / "002_mask.png").write_bytes(b"not an image")
    whole, without, damaged = manifest_of(folder).rows[2:5]
    assert whole.mask == "ground_truth/scratch/000_mask.png"
    assert (whole.mask_width, whole.mask_height, whole.mask_area) == (40, 30, 20)
    assert whole.smallest_defect == (4, 5)
    assert whole.mask_error is None
    assert (without.mask, without.mask_area, without.mask_error) == (None, None, None)
    assert damaged.mask_area is None
    assert "002_mask.png: not a PNG" in (damaged.mask_error or "")


def test_a_mask_whose_bytes_are_not_the_versions(make_category: MakeCategory) -> None:
    folder = make_category(anomalies=2)
    masks = [f"ground_truth/scratch/00{index}_mask.png" for index in range(2)]
    expected = {masks[0]: md5(folder / masks[0]), masks[1]: "0" * 32}
    good, changed = manifest_of(folder, expected_md5=expected).rows[2:4]
    assert good.mask_error is None
    assert "001_mask.png: differs" in (changed.mask_error or "")
    assert changed.mask_area == 20


def test_the_white_level_is_that_of_the_brightest_train_normal(
    make_category: MakeCategory,
) -> None:
    folder = make_category(train=3)
    for index, level in enumerate((200, 1000, 3000)):
        image = Image.fromarray(np.full((8, 8), level, np.uint16))
        image.save(folder / "train" / "good" / f"00{index}.png")
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(folder / "test" / "good" / "000.png")
    manifest = manifest_of(folder)
    assert manifest.white_level == 4095
    means = {facts.path: facts.mean for facts in manifest.rows}
    assert means["train/good/001.png"] == round(1000 * 255 / 4095)
    assert means["test/good/000.png"] == 255
    stated = manifest_of(folder, images=ImageSettings(white_level=1000))
    assert stated.white_level == 1000
    assert stated.rows[-2].mean == 255


def test_a_damaged_16_bit_image_is_a_row_too(make_category: MakeCategory) -> None:
    folder = make_category(train=2)
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(buffer, "PNG")
    (folder / "train" / "good" / "000.png").write_bytes(buffer.getvalue())
    (folder / "train" / "good" / "001.png").write_bytes(buffer.getvalue()[:-20])
    manifest = manifest_of(folder)
    assert manifest.white_level == 1023
    assert "cut short" in (manifest.rows[-1].decode_error or "")


def test_pixels_are_handed_on_for_every_image_that_decodes(make_category: MakeCategory) -> None:
    folder = make_category(train=4)
    (folder / "train" / "good" / "002.png").write_bytes(b"")
    seen: dict[str, NDArray[np.uint8]] = {}
    manifest_of(folder, on_pixels=seen.__setitem__)
    images = {image.path for image in scan_category(folder).images}
    assert seen.keys() == images - {"train/good/002.png"}
    with Image.open(folder / "train" / "good" / "000.png") as image:
        np.testing.assert_array_equal(seen["train/good/000.png"], np.asarray(image))


def test_what_the_receiver_of_pixels_raises_ends_the_manifest(
    make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS, "1")
    calls: list[str] = []

    def full(path: str, _pixels: NDArray[np.uint8]) -> None:
        calls.append(path)
        time.sleep(0.05)  # leaves the caller, on a busy machine, the time to hear of the first one
        raise StorageError("full")

    folder = make_category(train=40)
    with pytest.raises(StorageError, match="full"):
        manifest_of(folder, on_pixels=full)
    assert len(calls) < 20


def test_hashes_are_near_for_the_same_scene_and_far_for_others() -> None:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (9, 9)).astype(np.uint8)) for _ in range(2)]
    first, other = (image.resize((300, 200), Image.Resampling.BICUBIC) for image in coarse)
    bright = first.point(lambda level: level * 0.8 + 30)
    noisy = Image.fromarray(
        np.clip(np.asarray(first) + rng.normal(0, 4, (200, 300)), 0, 255).astype(np.uint8)
    )
    scaled = first.resize((150, 100))
    hashes = [perceptual_hash(image) for image in (first, bright, noisy, scaled, other)]
    assert all(len(code) == 64 and int(code, 16).bit_count() == 128 for code in hashes)
    distances = hash_distance_matrix(hashes)
    assert distances[0, 1:4].max() <= 40
    assert distances[0, 4] > 80


def test_the_hash_has_no_bits_of_rounding_noise() -> None:
    columns = np.random.default_rng(0).integers(50, 150, 64).astype(np.uint8)
    striped = np.tile(columns, (64, 1))
    hashes = [perceptual_hash(Image.fromarray(striped + np.uint8(k))) for k in (0, 1, 7, 90)]
    assert hash_distance_matrix(hashes).max() == 0
    # Nothing varies from row to row: only the first row of frequencies has any bits.
    assert int(hashes[0][4:], 16) == 0


def test_hash_distances_count_bits() -> None:
    codes = ["00" * 32, "00" * 31 + "07", "ff" * 32]
    distances = hash_distance_matrix(codes)
    assert distances.tolist() == [[0, 3, 256], [3, 0, 253], [256, 253, 0]]
