"""Validate categories with one faulty file on disk each."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_judgements import DEFECT, GOOD, TRAIN, found_in, judge_folder
from made_manifests import make_category, picture, read_manifest, save
from PIL import Image, ImageFilter

from stillwatch.errors import ValidationError
from stillwatch.tasks.validation.page import counts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_category(tmp_path / "board")


def test_a_truncated_png(folder: Path) -> None:
    path = folder / TRAIN
    path.write_bytes(path.read_bytes()[:-40])
    report = judge_folder(folder)
    assert found_in(report) == {("decodes", "critical", TRAIN)}
    with pytest.raises(ValidationError, match=TRAIN):
        report.raise_if_failed()


def test_a_text_file_named_png(folder: Path) -> None:
    (folder / GOOD).write_text("this is no image", encoding="utf-8")
    assert found_in(judge_folder(folder)) == {("decodes", "critical", GOOD)}


def test_an_empty_file(folder: Path) -> None:
    (folder / DEFECT).write_bytes(b"")
    assert found_in(judge_folder(folder)) == {("decodes", "critical", DEFECT)}


def test_a_decompression_bomb(folder: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
    (folder / TRAIN).write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    report = judge_folder(folder)
    assert found_in(report) == {("decodes", "critical", TRAIN)}
    assert "30000" in report.failures[0].found.replace(",", "").replace("\u202f", "")


def test_a_category_of_three_images(tmp_path: Path) -> None:
    report = judge_folder(make_category(tmp_path / "board", train=3))
    assert {("enough_train_normals", "critical", None)} <= found_in(report)
    assert not report.passed
    assert all(failure.path is None for failure in report.of_severity("critical"))


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


def test_a_mask_of_another_size(folder: Path) -> None:
    save(folder / "ground_truth/scratch/001_mask.png", np.full((32, 48), 255, np.uint8))
    report = judge_folder(folder)
    assert found_in(report) == {("mask_size", "critical", DEFECT)}
    assert report.failures[0].expected == "a mask of 64×64 pixels"
    assert report.failures[0].found == "48×32 pixels"


def test_an_anomaly_without_a_mask(folder: Path) -> None:
    (folder / "ground_truth/scratch/001_mask.png").unlink()
    assert found_in(judge_folder(folder)) == {("anomalies_with_mask", "critical", DEFECT)}


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
