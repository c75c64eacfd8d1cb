"""Methods are found by themselves, and asked for by name."""

from pathlib import Path
from typing import Any

import pytest
from toys import toy_teacher

from stillwatch import detectors
from stillwatch.detectors import (
    build_detector,
    detector_class,
    detector_classes,
    detector_settings,
    parse_detector_settings,
)
from stillwatch.detectors.stfpm import STFPM
from stillwatch.errors import DetectorError, SettingsError
from stillwatch.settings import Settings

ONE_MORE = """
from stillwatch.detectors.stfpm import STFPM

class Another(STFPM):
    name = "another"
"""


def test_the_default_methods_are_there() -> None:
    assert {"stfpm", "reverse_distillation"} <= detector_classes().keys()


def test_no_experimental_method_competes_by_default() -> None:
    experimental = {name for name, method in detector_classes().items() if method.experimental}
    assert experimental == {"style_distillation"}
    assert not experimental & set(Settings().retrain.detectors)


def test_adding_a_file_adds_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "another_method.py").write_text(ONE_MORE)
    monkeypatch.setattr(detectors, "__path__", [*detectors.__path__, str(tmp_path)])
    detector_classes.cache_clear()
    try:
        assert "another" in detector_classes()
    finally:
        detector_classes.cache_clear()


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(DetectorError, match="did you mean 'stfpm'"):
        detector_class("stfmp")


def test_unknown_setting_names_the_nearest_and_the_method() -> None:
    with pytest.raises(SettingsError, match=r"detectors\.stfpm.*did you mean 'epochs'"):
        parse_detector_settings("stfpm", {"epoch": 3})


@pytest.mark.parametrize(
    ("training", "own", "epochs"),
    [
        ({"profile": "laptop"}, {}, STFPM.Settings().epochs),
        ({"profile": "paper"}, {}, 100),
        ({"profile": "paper"}, {"epochs": 7}, 7),
        ({"device": "cpu"}, {}, STFPM.Settings().epochs),
    ],
    ids=["laptop", "paper", "own setting", "auto without a GPU"],
)
def test_profile_sets_what_is_left_open(
    training: dict[str, str], own: dict[str, int], epochs: int
) -> None:
    settings = Settings.model_validate({"training": training, "detectors": {"stfpm": own}})
    assert detector_settings("stfpm", settings).model_dump()["epochs"] == epochs


@pytest.mark.parametrize(
    ("name", "setting", "value", "said"),
    [
        ("asymmetric_student_teacher", "width", 0, "Input should be greater than or equal to 1"),
        ("autoencoder", "distance", "l1", "Input should be 'l2' or 'ssim'"),
        ("dinomaly", "steps", 0, "Input should be greater than or equal to 1"),
        ("destseg", "steps", 0, "Input should be greater than or equal to 1"),
        ("efficient_ad", "student_input", "maps", "Input should be 'features' or 'pixels'"),
        ("multiresolution", "cloner", "small", "Input should be 'compact' or 'equal'"),
        ("patchcore", "coreset", 1.5, "Input should be less than or equal to 1"),
        ("rd_plus_plus", "noisy_share", 0, "Input should be greater than 0"),
        ("reverse_distillation", "easy_share", 1, "Input should be less than 1"),
        ("stfpm", "batch_size", 0, "Input should be greater than or equal to 1"),
        ("style_distillation", "outlier_weight", -1, "Input should be greater than or equal to 0"),
        ("uninformed_students", "patch_sizes", [20], "Input should be 17, 33 or 65"),
    ],
)
def test_setting_out_of_range_is_refused_in_one_sentence(
    name: str, setting: str, value: Any, said: str
) -> None:
    place = rf"detectors\.{name}: {setting}(\.0)?: "
    with pytest.raises(SettingsError, match=rf"^{place}{said}\.$"):
        build_detector(name, toy_teacher(), {setting: value})
