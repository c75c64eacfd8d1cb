"""The benchmark of the promised false-alarm rate: its re-splits and its page."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.bound import drawn_again, interval, main
from PIL import Image
from scipy.stats import betabinom

from stillwatch.detectors import detector_class
from stillwatch.files import write_json
from stillwatch.images.layout import scan_category

OF_ANY_CELL = {
    "commit": "0123456789abcdef",
    "machine": "a machine",
    "settings": {"method_version": detector_class("patchcore").version},
}


def test_groups_stay_together_and_all_images_are_kept(tmp_path: Path) -> None:
    images = [f"train/good/item{number // 3}_{number}.png" for number in range(12)]
    images += [f"test/good/item{number // 2 + 4}_{number}.png" for number in range(6)]
    images += ["test/dent/item9_0.png", "ground_truth/dent/item9_0_mask.png"]
    for number, path in enumerate(images):
        file = tmp_path / "part" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(file)
    category = scan_category(tmp_path / "part")
    made = [
        scan_category(drawn_again(category, r"^(item\d+)", seed, tmp_path / str(seed) / "part"))
        for seed in range(4)
    ]
    for again in made:
        sides: dict[str, set[str]] = {}
        for image in (*again.train_normals, *again.test_normals):
            sides.setdefault(Path(image.path).name.split("_")[0], set()).add(image.split)
        assert len(sides) == 7
        assert all(len(side) == 1 for side in sides.values())
        assert len(again.train_normals) + len(again.test_normals) == 18
        assert 6 <= len(again.test_normals) < 6 + 3
        assert [image.mask is not None for image in again.test_anomalies] == [True]
    assert len({tuple(image.path for image in again.test_normals) for again in made}) > 1


def test_the_interval_holds_99_of_100_draws() -> None:
    low, high = interval(59, 57, 60)
    found = betabinom(60, 59 + 1 - 57, 57)
    assert found.cdf(high) - found.cdf(low - 1) >= 0.99
    assert found.cdf(high - 1) < 0.995
    assert low == 0


def test_the_page_counts_the_splits_and_sets_within_the_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, rate in enumerate((0.05, 0.9)):
        split = {"category": "part", "calibration": 59, "rank": 57, "test_normals": 60}
        cell = OF_ANY_CELL | split | {"false_alarm_rate": rate}
        write_json(tmp_path / f"part-1.0-{number}.json", cell)
    alarms = [3] * 8 + [50] * 2
    sets = {"n": 59, "m": 60, "rank": 57, "false_alarms": alarms}
    write_json(tmp_path / "fresh-10.json", OF_ANY_CELL | sets)
    main(["absent/part", "--splits", "2", "--sets", "10", "--out", str(tmp_path)])
    page = capsys.readouterr().out
    assert "| part | 2 | 59 | 60 | 0.475 | 1 of 2 |" in page
    assert "10 times 59 calibration and 60 test normals, 12.40 false alarms a set" in page
    assert "(expected: 3.00)" in page
    counted = Counter(count <= interval(59, 57, 60)[1] for count in alarms)
    assert f"{counted[True]} of 10 sets between" in page


def test_a_cell_of_an_earlier_version_of_the_method_is_run_again(tmp_path: Path) -> None:
    cell = OF_ANY_CELL | {"settings": {"method_version": 0}}
    write_json(tmp_path / "part-1.0-0.json", cell)
    with pytest.raises(SystemExit, match="absent/part"):
        main(["absent/part", "--splits", "1", "--out", str(tmp_path)])
