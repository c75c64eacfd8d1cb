import csv
import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from made_bundles import make_bundle, make_detector_bundle
from numpy.typing import NDArray
from PIL import Image

from stillwatch.calibration import Verdict, calibrate
from stillwatch.inference.captions import NARROWEST
from stillwatch.inference.files import OpenedModel, inspect_files, overlay_png, write_rows
from stillwatch.inference.inspector import InspectedImage
from stillwatch.inference.overlays import REJECT_OUTLINE, REVIEW_OUTLINE
from stillwatch.settings import Settings

NAMES = [b"\xff.png", b"n" * 240 + b".png", b"12:30:07.png", "größe.png".encode(), b"a b|c.png"]


def test_inspection_goes_on_with_names_that_other_systems_refuse(tmp_path: Path) -> None:
    model = OpenedModel(make_detector_bundle(tmp_path / "bundle"), None)
    files = [tmp_path / os.fsdecode(name) for name in NAMES]
    for file in files:
        Image.new("RGB", (64, 64), (90, 90, 90)).save(file)
    files.insert(2, tmp_path / os.fsdecode(b"\xfe-damaged.png"))
    files[2].write_bytes(b"no image")
    settings = Settings.model_validate(
        {"state_dir": tmp_path / "state", "training": {"device": "cpu"}}
    )
    out = tmp_path / "seen"
    rows = list(inspect_files(model, files, settings=settings, out=out))
    write_rows(rows, out)
    overlays = [row.overlay for row in rows if row.overlay]
    assert len(set(overlays)) == len(NAMES)
    for name in overlays:
        assert (out / name).is_file()
        assert name.isascii()
        assert len(name) < 80
        assert not set(name) & set(' :|?*"<>\\')
    assert [row.path for row in rows if row.error] == [f"{tmp_path}/\\udcfe-damaged.png"]
    with (out / "inspection.csv").open(encoding="utf-8") as table:
        assert [row["path"] for row in csv.DictReader(table)] == [row.path for row in rows]
    assert len(json.loads((out / "inspection.json").read_text(encoding="utf-8"))) == len(files)


@pytest.mark.parametrize("name", ["plain.png", "größe.png"])
def test_paths_that_are_text_stay_as_they_are(tmp_path: Path, name: str) -> None:
    model = OpenedModel(make_detector_bundle(tmp_path / "bundle"), None)
    Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / name)
    settings = Settings.model_validate(
        {"state_dir": tmp_path / "state", "training": {"device": "cpu"}}
    )
    (row,) = inspect_files(model, [tmp_path / name], settings=settings, out=None)
    assert row.path == str(tmp_path / name)


def drawn(
    folder: Path, shape: tuple[int, int], verdict: Verdict, score: float, note: str | None = None
) -> NDArray[np.uint8]:
    """The overlay of a grey image, whose map has this score in its middle, and 10 elsewhere."""
    bundle = make_bundle(folder)
    anomaly_map = np.full(shape, 10, np.float32)
    anomaly_map[shape[0] // 2, shape[1] // 2] = score
    image = InspectedImage(score, 0.05, verdict, anomaly_map, anomaly_map > 100, note=note)
    pixels = np.full((*shape, 3), 90, np.uint8)
    return np.asarray(Image.open(BytesIO(overlay_png(pixels, image, bundle))))


def has_colour(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    return bool(np.all(picture == colour, axis=2).any())


def letters(picture: NDArray[np.uint8]) -> int:
    """The number of columns that have bright pixels."""
    return int(np.count_nonzero((picture.min(axis=2) > 150).any(axis=0)))


@pytest.mark.parametrize("shape", [(64, 64), (40, 700), (700, 40), (300, 500)])
def test_an_overlay_has_a_caption_below_the_image(tmp_path: Path, shape: tuple[int, int]) -> None:
    picture = drawn(tmp_path / "bundle", shape, "pass", 50)
    scale = max(1.0, NARROWEST / max(shape))
    height, width = (round(side * scale) for side in shape)
    assert picture.shape[1] == max(width, NARROWEST)
    bar = picture[height:]
    assert 40 < len(bar) < 140
    assert letters(bar) > 100


def test_the_outline_of_an_overlay_says_the_verdict(tmp_path: Path) -> None:
    found = {}
    scores: dict[Verdict, float] = {"pass": 50, "review": 99, "reject": 150}
    for verdict, score in scores.items():
        picture = drawn(tmp_path / verdict, (320, 320), verdict, score)[:320]
        found[verdict] = [
            has_colour(picture, outline.colour) for outline in (REVIEW_OUTLINE, REJECT_OUTLINE)
        ]
    assert found == {"pass": [False, False], "review": [True, False], "reject": [False, True]}


def test_the_colours_of_an_overlay_do_not_need_a_threshold_above_zero(tmp_path: Path) -> None:
    scores = np.arange(-100, -80, dtype=np.float32)
    calibration = calibrate(scores, alpha_reject=0.05, alpha_review=0.15)
    bundle = make_bundle(tmp_path / "bundle", calibration=calibration)
    anomaly_map = np.full((320, 320), -200, np.float32)
    anomaly_map[140:180, 140:180] = -20
    image = InspectedImage(-20, 0.05, "reject", anomaly_map, anomaly_map > -81)
    pixels = np.full((320, 320, 3), 90, np.uint8)
    picture = np.asarray(Image.open(BytesIO(overlay_png(pixels, image, bundle))))
    assert picture[20, 20].tolist() == [90, 90, 90]
    red, _, blue = picture[160, 160].tolist()
    assert red > 150 > blue


def test_the_caption_of_an_overlay_has_the_note_of_the_verdict(tmp_path: Path) -> None:
    plain = drawn(tmp_path / "plain", (320, 320), "review", 50)
    noted = drawn(
        tmp_path / "noted", (320, 320), "review", 50, note="the image is " + "large " * 20
    )
    assert len(noted) > len(plain) + 40
