import base64
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from made_manifests import make_category, picture, save
from made_pages import Page
from PIL import Image

from stillwatch.errors import StorageError
from stillwatch.tasks.html import LONGEST_SIDE, Thumbnails
from stillwatch.tasks.validation.advice import ScaleAdvice, ScaleOption, SmallestDefect
from stillwatch.tasks.validation.page import MOST_ON_THE_PAGE, markdown_page, write_page
from stillwatch.tasks.validation.report import (
    CheckOutcome,
    Failure,
    ReportedRegion,
    Severity,
    ValidationReport,
)

FACTS = {
    "split": {"train": 40, "test": 7},
    "part": {"test": 7, "calibration": 19, "train": 16, "validation": 4, "duplicate": 1},
    "defect_type": {"scratch": 3, "good": 4},
    "feedback": {},
    "mask": {"scratch": 2},
}


def failure(
    path: str | None, check: str = "sharp", severity: Severity = "critical", **other: str
) -> Failure:
    return Failure(check, severity, path, other.get("expected", "5"), other.get("found", "3"))


def report_of(*failures: Failure, errored: tuple[str, ...] = ()) -> ValidationReport:
    severities = {one.check: one.severity for one in failures}
    outcomes = [
        CheckOutcome(
            name=name,
            title=f"Faults of {name}",
            advice=f"Fix {name}.",
            severity=severity,
            state="failed",
            failures=sum(one.check == name for one in failures),
            on_images=all(one.path is not None for one in failures if one.check == name),
        )
        for name, severity in severities.items()
    ]
    fine = CheckOutcome("fine", "Faults of nothing", "", "warning", "passed", 0, on_images=True)
    return ValidationReport("board", failures, errored, (*outcomes, fine), FACTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_category(tmp_path_factory.mktemp("page") / "board", train=5)


def page_of(report: ValidationReport, folder: Path, tmp_path: Path) -> Page:
    path = tmp_path / "board.html"
    thumbnails = Thumbnails(folder, white_level=255, max_megapixels=1.0)
    write_page(path, report, thumbnails, data_version="0123abcd.dir")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.needs == set()
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    return page


def test_the_page_of_a_passed_category_lists_all_checks(folder: Path, tmp_path: Path) -> None:
    page = page_of(report_of(), folder, tmp_path)
    assert "board is ready for training" in page.text
    assert "0123abcd.dir" in page.text
    assert "Faults of nothing: none" in page.text
    assert page.images == []


def test_the_region_is_shown_bright_on_an_image(tmp_path: Path) -> None:
    save(tmp_path / "train/good/0.png", np.full((60, 100, 3), 200, np.uint8))
    counted = np.zeros((60, 100), np.uint8)
    counted[:, :50] = 255
    save(tmp_path / "region.png", counted)
    region = ReportedRegion("region.png", 0.5, "train/good/0.png")
    report = replace(report_of(), region=region)
    page = page_of(report, tmp_path, tmp_path)
    assert "50.0% of the pixels count" in page.text
    (image,) = page.images
    assert (image["alt"] or "").startswith("train/good/0.png")
    shown = Image.open(BytesIO(base64.b64decode((image["src"] or "").split(",")[1])))
    values = np.asarray(shown.convert("L"))
    assert values[:, :40].min() > 180
    assert values[:, 60:].max() < 80
    thumbnails = Thumbnails(tmp_path, white_level=255, max_megapixels=1.0)
    text = markdown_page(report, thumbnails, page=tmp_path / "p.html", data_version="1")
    assert "## Region of interest" in text
    without = replace(report, region=replace(region, image="absent.png"))
    assert page_of(without, tmp_path, tmp_path).images == []


def test_the_scales_are_compared_in_a_table(folder: Path, tmp_path: Path) -> None:
    option = ScaleOption(1.0, 256, True, 5.0, 31.0, 18, 14.2, 1234.0)
    advice = ScaleAdvice(SmallestDefect("test/a.png", 5, 31), (option,), ("stfpm",), measured=False)
    report = replace(report_of(), scale=advice)
    page = page_of(report, folder, tmp_path)
    thumbnails = Thumbnails(folder, white_level=255, max_megapixels=1.0)
    text = markdown_page(report, thumbnails, page=tmp_path / "p.html", data_version="1")
    for shown in (page.text, text):
        for cell in ("scale 1.0, tiles of 256 (set)", "5 × 31", "18", "about 14 min", "1200 ms"):
            assert cell in shown
    assert "The smallest annotated defect: 5 × 31 pixels, on test/a.png." in page.text


def test_counts_name_the_folders_and_the_parts_in_order(folder: Path, tmp_path: Path) -> None:
    text = " ".join(page_of(report_of(), folder, tmp_path).text.split())
    assert "16 train, 4 validation, 19 calibration, 1 duplicate" in text
    assert text.index("test/good") < text.index("test/scratch")
    assert "2 with a mask" in text


def test_a_failure_has_file_expected_found_advice_and_picture(folder: Path, tmp_path: Path) -> None:
    path = "train/good/003.png"
    shown = replace(
        failure(path, expected="a sharp image", found="a blurred one"),
        related="ground_truth/scratch/001_mask.png",
    )
    page = page_of(report_of(shown), folder, tmp_path)
    for text in ("board must not be trained on: 1 critical failure", path, "a sharp image"):
        assert text in page.text
    for text in ("a blurred one", "Faults of sharp: 1", "Fix sharp.", "stopped before it began"):
        assert text in page.text
    assert [image["alt"] for image in page.images] == [path, "ground_truth/scratch/001_mask.png"]


def test_thumbnails_are_small_pictures_of_the_right_file(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "wide.png", np.tile(picture(3), (4, 8, 1)))
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 1
    save(tmp_path / "ground_truth/mask.png", mask)
    thumbnails = Thumbnails(tmp_path, white_level=255, max_megapixels=1.0)

    def shown(path: str) -> Image.Image:
        uri = thumbnails.data_uri(path)
        assert uri is not None
        return Image.open(BytesIO(base64.b64decode(uri.split(",")[1])))

    assert shown("wide.png").size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    values = np.asarray(shown("ground_truth/mask.png"))
    assert values[:, :24].max() < 20
    assert values[:, 40:].min() > 235
    small = Thumbnails(tmp_path, white_level=255, max_megapixels=0.001)
    assert [small.data_uri(path) for path in ("wide.png", "ground_truth/mask.png")] == [None, None]


def test_files_that_cannot_be_shown_get_no_picture(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    (tmp_path / "empty.png").touch()
    failures = [failure(name) for name in ("text.png", "empty.png", "absent.png")]
    page = page_of(report_of(*failures), tmp_path, tmp_path)
    assert page.images == []
    assert "absent.png" in page.text


def test_file_names_and_findings_are_escaped(folder: Path, tmp_path: Path) -> None:
    evil = "test/<script>alert(1)</script>.png"
    odd = "test/good/\udcff\n.png"
    report = report_of(failure(evil, found="<b>bold</b> & more"), failure(odd))
    page = page_of(report, folder, tmp_path)
    assert evil in page.text
    assert "<b>bold</b> & more" in page.text
    assert "test/good/\\udcff\\n.png" in page.text


def test_surplus_failures_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    many = [failure(f"train/good/{index:03}.png") for index in range(5)] * 40
    few = [failure(f"test/good/{index:03}.png", "dark", "warning") for index in range(3)]
    page = page_of(report_of(*many, *few), folder, tmp_path)
    assert len(page.images) == MOST_ON_THE_PAGE
    assert sum((image["alt"] or "").startswith("test/good") for image in page.images) == 3
    assert "and 153 more" in page.text
    assert page.text.index("Faults of sharp: 200") < page.text.index("Faults of dark: 3")


def test_a_failure_of_the_whole_category_has_no_file(folder: Path, tmp_path: Path) -> None:
    page = page_of(report_of(failure(None, found="7, 3 missing")), folder, tmp_path)
    assert "whole category" in page.text
    assert "Faults of sharp: yes" in page.text
    assert "7, 3 missing" in page.text


def test_a_broken_check_is_not_blamed_on_the_images(folder: Path, tmp_path: Path) -> None:
    page = page_of(report_of(errored=("check sharp broke: no column",)), folder, tmp_path)
    assert "board must not be trained on: 1 broken check" in page.text
    assert "check sharp broke: no column" in page.text
    assert "says nothing about the images" in page.text


def test_the_page_is_written_atomically(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()
    thumbnails = Thumbnails(folder, white_level=255, max_megapixels=1.0)
    with pytest.raises(StorageError, match="cannot be written"):
        write_page(blocked / "board.html", report_of(), thumbnails, data_version="1")
    assert list(tmp_path.iterdir()) == [blocked]


def test_the_markdown_names_the_page_and_escapes_table_cells(folder: Path, tmp_path: Path) -> None:
    report = report_of(
        failure("train/good/003.png", found="a | b"),
        failure("test/<img>_*.png"),
        errored=("check dark broke: `x`",),
    )
    page = tmp_path / "board.html"
    text = markdown_page(
        report,
        Thumbnails(folder, white_level=255, max_megapixels=1.0),
        page=page,
        data_version="0123.dir",
    )
    assert "# board must not be trained on: 2 critical failures, 1 broken check" in text
    assert f"`{page}`" in text
    assert r"a \| b" in text
    assert r"test/\<img\>\_\*.png" in text
    assert r"\`x\`" in text
    assert text.count("![](data:image/jpeg;base64,") == 1
    assert "| train/good | 40 | 16 train, 4 validation, 19 calibration, 1 duplicate |" in text
