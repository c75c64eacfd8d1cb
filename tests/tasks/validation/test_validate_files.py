"""Validate categories with one faulty file on disk each."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_judgements import DEFECT, GOOD, TRAIN, found_in, judge, judge_folder
from made_manifests import SETTINGS, SIDE, make_category, picture, read_manifest, save
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from stillwatch.errors import ValidationError
from stillwatch.images.layout import scan_category
from stillwatch.images.manifest import build_manifest
from stillwatch.tasks.validation.page import counts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_category(tmp_path / "board")


def test_files_that_are_no_images(folder: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
    truncated, text, empty, bomb = TRAIN, GOOD, DEFECT, "train/good/004.png"
    (folder / truncated).write_bytes((folder / truncated).read_bytes()[:-40])
    (folder / text).write_text("this is no image", encoding="utf-8")
    (folder / empty).write_bytes(b"")
    (folder / bomb).write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    report = judge_folder(folder)
    faulty = {truncated, text, empty, bomb}
    assert found_in(report) == {("decodes", "critical", path) for path in faulty}
    with pytest.raises(ValidationError, match=TRAIN):
        report.raise_if_failed()
    (found,) = (failure.found for failure in report.failures if failure.path == bomb)
    assert "30000" in found.replace(",", "").replace("\u202f", "")


def test_a_category_of_three_images(tmp_path: Path) -> None:
    report = judge_folder(make_category(tmp_path / "board", train=3))
    assert {("enough_train_normals", "critical", None)} <= found_in(report)
    assert not report.passed
    assert all(failure.path is None for failure in report.of_severity("critical"))


def test_25_images_are_told_what_they_are_used_for(tmp_path: Path) -> None:
    report = judge_folder(make_category(tmp_path / "board", train=25))
    (failure,) = report.of_severity("critical")
    assert failure.expected == "at least 10 different images to learn from"
    assert failure.found == (
        "3, of 25 good images (3 to learn from, 19 calibrate, 3 watch the training): add 8 more "
        "good images"
    )
    assert judge_folder(make_category(tmp_path / "board", train=33)).passed


def test_frames_of_a_part_at_rest_are_one_image(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(40):
        frame = picture(0).astype(int) + rng.integers(0, 2, (SIDE, SIDE, 3)) + index % 3
        save(folder / f"train/good/{index:03}.png", frame.astype(np.uint8))
    report = judge_folder(folder)
    assert not report.passed
    (repeated,) = report.of_check("each_image_shows_another_part")
    assert repeated.found == (
        "of 40 train images only 1 differ: 40 show the same as train/good/000.png"
    )
    (calibration,) = report.of_check("enough_calibration_normals")
    assert calibration.found.startswith("0, of 40 good images (17 to learn from, 19 calibrate, ")
    assert "only 0 of the 19 show other parts" in calibration.found
    (train,) = report.of_check("enough_train_normals")
    assert "only 1 of the 17 show other parts" in train.found


def test_even_surfaces_that_differ_by_their_noise_are_different(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(40):
        surface = np.rint(rng.normal(120, 3, (SIDE, SIDE))).astype(np.uint8)
        save(folder / f"train/good/{index:03}.png", surface)
    assert judge_folder(folder).of_check("each_image_shows_another_part") == ()


def widen(folder: Path) -> None:
    """Save all images as 12 bits in 16."""
    for path in folder.rglob("*.png"):
        if "ground_truth" not in path.parts:
            grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
            save(path, grey)


def test_a_dead_pixel_does_not_set_the_white_level(folder: Path) -> None:
    widen(folder)
    assert judge_folder(folder).failures == ()
    with Image.open(folder / TRAIN) as image:
        grey = np.array(image)
    grey[7, 9] = 65535
    save(folder / TRAIN, grey)
    report = judge_folder(folder)
    assert read_manifest(folder).white_level == 4095
    assert found_in(report) == {("within_white_level", "warning", TRAIN)}
    assert report.failures[0].found == "up to 65535 at x 9, y 7"


def test_a_category_that_is_almost_black_is_refused(folder: Path) -> None:
    widen(folder)
    images = SETTINGS.images.model_copy(update={"white_level": 65535})
    manifest = build_manifest(scan_category(folder), images=images, expected_md5=None, parts=None)
    (failure,) = judge(manifest).of_check("not_black")
    assert failure.severity == "critical"
    assert failure.found.endswith("in half of the train images, with the white level 65535")


def test_a_train_image_copied_into_test(folder: Path) -> None:
    (folder / "test/good/copy.png").write_bytes((folder / TRAIN).read_bytes())
    report = judge_folder(folder)
    assert found_in(report) == {("no_test_image_in_train", "critical", "test/good/copy.png")}
    assert TRAIN in report.failures[0].found
    assert report.failures[0].related == TRAIN
    assert "test/good/copy.png" in report.reason()
    assert TRAIN in report.reason()


def test_a_train_image_saved_anew_into_test_is_a_near_duplicate(folder: Path) -> None:
    lighter = Image.open(folder / TRAIN).point(lambda value: min(255, value + 6))
    lighter.save(folder / "test/good/again.png")
    report = judge_folder(folder)
    assert found_in(report) == {("no_test_image_nearly_in_train", "warning", "test/good/again.png")}
    assert TRAIN in report.failures[0].found
    assert report.passed


def test_corrected_images_need_no_mask_and_are_nowhere_else(folder: Path) -> None:
    save(folder / "feedback/good/new.png", picture(3000))
    save(folder / "feedback/scratch/missed.png", picture(3001))
    Image.open(folder / TRAIN).point(lambda value: min(255, value + 6)).save(
        folder / "feedback/scratch/near.png"
    )
    for name, original in (("learnt", TRAIN), ("tested", DEFECT)):
        (folder / f"feedback/scratch/{name}.png").write_bytes((folder / original).read_bytes())
    (folder / "feedback/good/tested.png").write_bytes((folder / GOOD).read_bytes())
    report = judge_folder(folder)
    assert found_in(report) == {
        ("no_test_image_in_train", "critical", "feedback/scratch/learnt.png"),
        ("no_feedback_in_test", "critical", "feedback/scratch/tested.png"),
        ("no_test_image_in_train", "critical", GOOD),
    }
    assert report.of_check("no_feedback_in_test")[0].related == DEFECT
    images = {count.folder: count.images for count in counts(report)}
    assert images == {
        "train/good": 40,
        "test/good": 4,
        "test/scratch": 3,
        "feedback/good": 2,
        "feedback/scratch": 4,
    }


def test_a_mask_of_another_size_and_an_anomaly_without_a_mask(folder: Path) -> None:
    mask = np.zeros((32, 48), np.uint8)
    mask[10:20, 10:20] = 255
    save(folder / "ground_truth/scratch/001_mask.png", mask)
    (folder / "ground_truth/scratch/002_mask.png").unlink()
    report = judge_folder(folder)
    assert found_in(report) == {
        ("mask_size", "critical", DEFECT),
        ("anomalies_with_mask", "critical", "test/scratch/002.png"),
    }
    (failure,) = report.of_check("mask_size")
    assert failure.expected == "a mask of 64×64 pixels"
    assert failure.found == "48×32 pixels"


def test_an_inverted_mask_is_refused_with_its_picture(folder: Path) -> None:
    inverted = np.full((SIDE, SIDE), 255, np.uint8)
    inverted[20:30, 20:40] = 0
    save(folder / "ground_truth/scratch/001_mask.png", inverted)
    report = judge_folder(folder)
    assert found_in(report) == {("mask_plausible", "critical", DEFECT)}
    assert report.failures[0].found == "ground_truth/scratch/001_mask.png marks 95% of the image"
    assert report.failures[0].related == "ground_truth/scratch/001_mask.png"


def test_a_blank_mask_of_a_normal_is_no_fault_and_another_one_is(folder: Path) -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    save(folder / "ground_truth/good/001_mask.png", mask)
    save(folder / "train/good/003_GT.png", mask)
    assert judge_folder(folder).failures == ()
    mask[5, 5] = 255
    save(folder / "train/good/003_GT.png", mask)
    assert found_in(judge_folder(folder)) == {("normals_without_mask", "critical", TRAIN)}


def test_masks_saved_as_jpeg_are_a_warning(folder: Path) -> None:
    mask = folder / "ground_truth/scratch/001_mask.png"
    with Image.open(mask) as image:
        image.save(mask.with_suffix(".jpg"), quality=60)
    mask.unlink()
    report = judge_folder(folder)
    assert found_in(report) == {("mask_of_two_values", "warning", DEFECT)}
    assert report.failures[0].found.endswith(
        "from half of its range on mark the defect, 200 pixels"
    )


def test_the_mask_of_a_photograph_that_is_stored_upside_down(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(folder / DEFECT) as image:
        image.save(folder / DEFECT, exif=exif)
    report = judge_folder(folder)
    assert found_in(report) == {("mask_readable", "critical", DEFECT)}
    assert "nobody can tell whether it was drawn on the upright image" in report.failures[0].found


def test_what_is_left_out_is_named(folder: Path) -> None:
    save(folder / "ground_truth/scratch/9_mask.png", np.zeros((SIDE, SIDE), np.uint8))
    for index in range(7):
        save(folder / f"train/{index}.png", picture(4000 + index))
    (folder / "train/good/labels.json").write_text("{}", encoding="utf-8")
    report = judge_folder(folder)
    assert [(failure.check, failure.severity, failure.found) for failure in report.failures] == [
        (
            "masks_fit_images",
            "critical",
            "no image, or more than one, fits ground_truth/scratch/9_mask.png",
        ),
        (
            "every_image_read",
            "warning",
            "not read: train/0.png, train/1.png, train/2.png, train/3.png, train/4.png and 2 more",
        ),
        ("only_images", "warning", "left out: train/good/labels.json"),
    ]


def test_a_flipped_bit_in_a_file_that_still_decodes(folder: Path) -> None:
    recorded = {row.path: row.md5 for row in read_manifest(folder).rows}
    save(folder / TRAIN, picture(9999))
    report = judge_folder(folder, recorded)
    assert found_in(report) >= {("bytes_as_recorded", "critical", TRAIN)}
    (failure,) = report.of_check("bytes_as_recorded")
    assert "differs from what DVC recorded (bit rot or edited during the run)" in failure.found
    assert recorded[TRAIN][:12] in failure.expected


def test_an_image_out_of_focus_and_one_in_the_dark(folder: Path) -> None:
    blurred = Image.open(folder / TRAIN).filter(ImageFilter.GaussianBlur(6))
    blurred.save(folder / TRAIN)
    save(folder / GOOD, picture(1001) // 40)
    found = found_in(judge_folder(folder))
    assert {("not_blurred", "warning", TRAIN), ("not_dark", "warning", GOOD)} <= found
    assert all(severity == "warning" for _, severity, _ in found)


def test_mixed_sizes_are_a_warning(folder: Path) -> None:
    save(folder / GOOD, np.asarray(Image.fromarray(picture(1001)).resize((80, 64))))
    assert ("same_size", "warning", GOOD) in found_in(judge_folder(folder))


def draw(folder: Path, white: NDArray[np.bool_], name: str = "region.png") -> None:
    save(folder / name, white.astype(np.uint8) * 255)


@pytest.fixture
def left_half() -> NDArray[np.bool_]:
    """Without the defects, which are at columns 20 to 39."""
    counted = np.zeros((SIDE, SIDE), bool)
    counted[:, :20] = True
    return counted


def test_a_sound_region_is_reported_with_an_image_to_show_it_on(folder: Path) -> None:
    counted = np.ones((SIDE, SIDE), bool)
    draw(folder, counted)
    report = judge_folder(folder)
    assert report.failures == ()
    assert report.region is not None
    assert report.region.sentence() == "region.png: all pixels count, as without the file."
    counted[:, 48:] = False
    draw(folder, counted)
    report = judge_folder(folder)
    assert report.failures == ()
    assert report.region is not None
    assert "75.0% of the pixels count" in report.region.sentence()
    assert report.region.image == "test/good/000.png"


def test_a_region_that_cannot_be_used(folder: Path, left_half: NDArray[np.bool_]) -> None:
    def refused() -> str:
        report = judge_folder(folder)
        assert found_in(report) == {("region_usable", "critical", None)}
        assert report.region is None
        return report.reason()

    (folder / "region.png").write_text("no image", encoding="utf-8")
    assert "not a PNG, JPEG, BMP or TIFF image" in refused()
    draw(folder, np.zeros((SIDE, SIDE), bool))
    assert "no pixel is white, so that no defect would count" in refused()
    draw(folder, left_half)
    draw(folder, left_half, "ignore.png")
    assert "has both region.png and ignore.png" in refused()


def test_photographs_that_are_turned_under_the_region(folder: Path) -> None:
    draw(folder, np.ones((SIDE, SIDE), bool))
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(folder / GOOD) as image:
        image.save(folder / GOOD, exif=exif)
    assert found_in(judge_folder(folder)) == {("region_upright", "warning", GOOD)}


def test_a_thumbnail_in_front_of_the_image_is_a_warning(folder: Path) -> None:
    with Image.open(folder / GOOD) as image:
        small, large = image.resize((8, 8)), image.copy()
    small.save(folder / "test/good/pages.tif", save_all=True, append_images=[large])
    (folder / GOOD).unlink()
    report = judge_folder(folder)
    assert found_in(report) == {("one_page", "warning", "test/good/pages.tif")}
    assert report.failures[0].found == "2 pages; the largest is read, 64×64 pixels"


def test_images_of_another_size_than_the_region(folder: Path) -> None:
    draw(folder, np.ones((SIDE, SIDE), bool))
    save(folder / GOOD, np.asarray(Image.fromarray(picture(1001)).resize((80, 64))))
    report = judge_folder(folder)
    assert {("region_size", "critical", GOOD), ("same_size", "warning", GOOD)} == found_in(report)
    assert f"{GOOD}: 80×64 pixels (expected 64×64 pixels, as region.png)" in report.reason()


def test_defects_wholly_outside_the_region(folder: Path, left_half: NDArray[np.bool_]) -> None:
    draw(folder, left_half)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[5:9, 15:30] = True
    draw(folder, mask, "ground_truth/scratch/000_mask.png")
    report = judge_folder(folder)
    assert report.passed
    assert found_in(report) == {
        ("defect_in_region", "warning", f"test/scratch/00{index}.png") for index in (1, 2)
    }
    assert report.failures[0].found == "ground_truth/scratch/001_mask.png is wholly outside"
