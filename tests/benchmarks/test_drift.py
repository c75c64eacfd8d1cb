"""The drift benchmark on scores with a known answer; scoring is what the other benchmarks do."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.drift import main

SETTINGS = {"category": "plate", "detector": "stfpm", "side": 64, "unchanged": 1430, "changed": 150}


def made_scores(folder: Path) -> None:
    rng = np.random.default_rng(0)
    cell = {
        "settings": SETTINGS,
        "unchanged": rng.normal(size=1430).tolist(),
        "changed": {"none": rng.normal(size=150).tolist(), "far": rng.normal(9, 1, 150).tolist()},
        "defective": rng.normal(3, 1, 100).tolist(),
        "machine": "a machine",
        "commit": "0123456789abcdef",
    }
    folder.mkdir(parents=True)
    (folder / "plate-stfpm.json").write_text(json.dumps(cell))


def test_a_change_is_found_where_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_scores(tmp_path / "scores")
    sizes = ["--images", "1400", "--calibration", "30", "--changed", "150"]
    repeats = ["--repeats", "6", "--quiet-repeats", "8"]
    main([*sizes, *repeats, "--out", str(tmp_path)])

    found = json.loads((tmp_path / "drift.json").read_text())
    assert max(found["false_alarms"].values()) <= 2
    rows = {(row["change"], row["begin"], row["test"]): row["delays"] for row in found["delays"]}
    assert {begin for _, begin, _ in rows} == {1, 1000}, "10,000 is beyond these images"
    for begin in (1, 1000):
        assert max(rows["far", begin, "martingale"]) < 20
        assert rows["none", begin, "first of both"].count(None) >= 4
    assert rows["far", 1, "windows"] == [100] * 6, "the first whole window"
    assert rows["far", 1000, "windows"] == [101] * 6, "images 1001 to 1100"
    assert [row["share"] for row in found["constant_defects"]] == [0.01, 0.05]

    printed = capsys.readouterr().out
    assert "commit 0123456789, a machine." in printed
    assert "| far | 1,000 | windows | 101 | 101 to 101 | 100% |" in printed
    assert "| none | 1 | first of both | – | – to – |" in printed
