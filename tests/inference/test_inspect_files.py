import csv
import json
import os
from pathlib import Path

import pytest
from made_bundles import make_detector_bundle
from PIL import Image

from stillwatch.inference.files import OpenedModel, inspect_files, write_rows
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
