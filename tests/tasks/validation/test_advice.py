from dataclasses import replace
from pathlib import Path

import pytest
from made_manifests import SETTINGS, changed, make_category, read_manifest, with_rows

from stillwatch.images.manifest import Manifest
from stillwatch.settings import Settings
from stillwatch.tasks.validation.advice import advise
from stillwatch.tasks.validation.costs import Cost, record_cost, recorded_cost

DEFECT = "test/scratch/001.png"


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Images of 500 × 1250 pixels, as far as the manifest says."""
    manifest = read_manifest(make_category(tmp_path_factory.mktemp("sound") / "board"))
    large = with_rows(
        manifest,
        lambda row: replace(
            row, width=500, height=1250, smallest_defect=row.smallest_defect and (90, 60)
        ),
    )
    return changed(large, DEFECT, smallest_defect=(31, 5))


def settings(state_dir: Path = Path("absent"), **sections: object) -> Settings:
    return SETTINGS.model_validate({"state_dir": state_dir, **sections})


def test_each_scale_is_compared_with_the_present_one(boards: Manifest) -> None:
    advice = advise(boards, settings())
    assert advice is not None
    assert advice.sentences()[0] == (
        "The smallest annotated defect: 5 × 31 pixels, on test/scratch/001.png."
    )
    fit, half, whole = advice.options
    assert fit.chosen
    assert not half.chosen
    assert not whole.chosen
    assert [fit.name, half.name, whole.name] == [
        "scale fit, size 256",
        "scale 0.5, tiles of 256",
        "scale 1.0, tiles of 256",
    ]
    assert [fit.seen, half.seen, whole.seen] == ["1 × 6.3", "2.5 × 16", "5 × 31"]
    # 250 × 625 pixels are 1 × 3 tiles that share 32 pixels at least, 500 × 1250 are 3 × 6.
    assert [fit.tiles, half.tiles, whole.tiles] == [1, 3, 18]
    assert whole.ms_per_image
    assert half.ms_per_image
    assert whole.ms_per_image == pytest.approx(6 * half.ms_per_image)
    assert "two CPU cores" in advice.sentences()[1]


def test_a_present_factor_is_compared_with_fit_and_the_other_factor(boards: Manifest) -> None:
    advice = advise(boards, settings(images={"scale": 0.5, "size": 320}))
    assert advice is not None
    assert [option.name for option in advice.options] == [
        "scale 0.5, tiles of 320",
        "scale fit, size 320",
        "scale 1.0, tiles of 320",
    ]


def test_a_setting_stands_for_missing_masks(boards: Manifest) -> None:
    without = with_rows(boards, lambda row: replace(row, mask=None, smallest_defect=None))
    unknown = advise(without, settings())
    assert unknown is not None
    assert (unknown.defect, unknown.options) == (None, ())
    (sentence,) = unknown.sentences()
    assert "Set checks.smallest_defect" in sentence
    told = advise(without, settings(checks={"smallest_defect": 10}))
    assert told is not None
    assert told.chosen is not None
    assert told.chosen.seen == "2 × 2"
    assert "10 × 10 pixels (checks.smallest_defect)" in told.sentences()[0]


def test_the_defect_of_the_setting_is_on_the_largest_image(boards: Manifest) -> None:
    large = next(row for row in boards.rows if row.split == "train")
    mixed = with_rows(
        boards,
        lambda row: replace(
            row if row is large else replace(row, width=50, height=125),
            mask=None,
            smallest_defect=None,
        ),
    )
    advice = advise(mixed, settings(checks={"smallest_defect": 10}))
    assert advice is not None
    assert advice.chosen is not None
    assert advice.chosen.seen == "2 × 2"


def test_times_are_those_that_were_measured_here(boards: Manifest, tmp_path: Path) -> None:
    mine = settings(tmp_path, retrain={"detectors": ["mine"]})
    assert recorded_cost(mine, "mine") is None
    record_cost(mine, "mine", Cost(training_seconds=60, inspection_ms=1000))
    advice = advise(boards, mine)
    assert advice is not None
    assert advice.measured
    # 17 training images of 102 × 256 pixels, padded to tiles of 128 × 256.
    pixels = 128 * 256 / 1e6
    assert advice.options[0].training_minutes == pytest.approx(17 * pixels)
    assert advice.options[0].ms_per_image == pytest.approx(1000 * pixels)
    # An epoch has at most the pixels of 400 tiles of 256 × 256, and here fewer: 17 × 18 tiles.
    assert advice.options[2].training_minutes == pytest.approx(17 * 18 * 256**2 / 1e6)
    few = settings(tmp_path, retrain={"detectors": ["mine"]}, training={"tiles_per_epoch": 100})
    record_cost(few, "mine", Cost(training_seconds=60, inspection_ms=1000, most_epochs=2))
    memory = advise(boards, few)
    assert memory is not None
    assert memory.options[2].training_minutes == pytest.approx(200 * 256**2 / 1e6)
    (file,) = (tmp_path / "costs").iterdir()
    file.write_text("{")
    unmeasured = advise(boards, mine)
    assert unmeasured is not None
    assert unmeasured.options[0].training == "unknown"


def test_times_of_other_settings_of_a_detector_are_not_taken(tmp_path: Path) -> None:
    longer = {"board": {"detectors": {"stfpm": {"epochs": 100}}}}
    everywhere = settings(tmp_path, categories=longer)
    board, others = (everywhere.for_category(name) for name in ("board", "plate"))
    slow, fast = (Cost(training_seconds=seconds, inspection_ms=1) for seconds in (600, 60))
    record_cost(board, "stfpm", slow)
    assert recorded_cost(others, "stfpm") is None
    record_cost(others, "stfpm", fast)
    assert (recorded_cost(board, "stfpm"), recorded_cost(others, "stfpm")) == (slow, fast)


def test_no_advice_without_an_image_to_learn_from(boards: Manifest) -> None:
    assert advise(with_rows(boards, lambda row: None), settings()) is None
