from pathlib import Path

import pytest

from stillwatch.errors import SettingsError
from stillwatch.geometry import fitted, tiled
from stillwatch.settings import ImageSettings, Settings, load_settings

ROOT = Path(__file__).parents[1]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_params_yaml_holds_every_knob_with_its_default() -> None:
    anchored = {"state_dir", "workspace", "inbox", "inspection", "teacher"}
    shipped = load_settings(ROOT / "params.yaml")
    assert shipped.model_dump(exclude=anchored) == Settings().model_dump(exclude=anchored)
    placed = (shipped.workspace, shipped.inbox, shipped.inspection)
    for section in (*placed, shipped.tracking, shipped.services):
        assert section.model_fields_set == set(type(section).model_fields)
    assert shipped.model_fields_set == set(Settings.model_fields)


def test_folders_are_relative_to_the_settings_file(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, "state_dir: state\n"))
    assert settings.state_dir == tmp_path / "state"
    assert settings.workspace.path == tmp_path


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "")).images.size == 256


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("images: {sise: 64}", "images: unknown setting 'sise' (did you mean 'size'?)"),
        ("trainning: {}", "unknown setting 'trainning' (did you mean 'training'?)"),
        (
            "images: {scale: 0}",
            "images.scale: is 0, and must be fit, or a factor above 0 and at most 4",
        ),
        ("images: {scale: 4.5}", "images.scale: is 4.5, and must be fit"),
        ("images: {scale: .nan}", "images.scale: is nan, and must be fit"),
        ("images: {scale: fill}", "images.scale: is fill, and must be fit, or a factor"),
        ("images: {scale: 1.0, size: 100}", "side of a tile must be a multiple of 32"),
        ("images: {scale: 1.0, size: 64, overlap: 64}", "overlap (64) must be less than the side"),
        ("images: {overlap: -1}", "images.overlap"),
        ("images: {size: 8}", "images.size: Input should be greater than or equal to 32"),
        ("calibration: {alpha_reject: 1.5}", "alpha_reject: Input should be less than 1"),
        ("calibration: {alpha_reject: 0.3}", "must be at least alpha_reject"),
        ("training: {device: tpu}", "training.device"),
        ("gate: {automatic: [worse]}", "gate.automatic.0: Input should be 'better' or 'not_worse'"),
        ("tracking: {uri: 'postgresql://a:hush@db/mlflow'}", "tracking.uri: has a password in it"),
        ("services: {prefect_database: 'postgresql://a:hush@db/p'}", "comes from PGPASSWORD"),
        ("tracking: {uri: 'postgresql://db/m?user=a&password=hush'}", "has a password in it"),
        ("services: {prefect_database: 'mysql://db/p'}", "services.prefect_database"),
        ("services: {host: 'a b'}", "services.host"),
        ("tracking: {artifacts: /srv/files}", "tracking.artifacts"),
        (
            "tracking: {uri: 'http://mlflow:5000', artifacts: 's3://parts'}",
            "The server http://mlflow:5000 decides itself",
        ),
        ("images: [", "cannot be read as YAML"),
        ("- 1", "valid dictionary"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_factor_cuts_tiles_and_fit_does_not() -> None:
    shapes = [(300, 500)]
    assert ImageSettings(size=100).geometry(shapes) == fitted(shapes, 100)
    assert ImageSettings(scale=0.5, size=64).geometry(shapes) == tiled(shapes, 0.5, 64, 32)
    assert ImageSettings(size=100, overlap=200).geometry(shapes) == fitted(shapes, 100)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such settings file"):
        load_settings(tmp_path / "params.yaml")


OVERRIDES = """
images: {size: 128, white_level: 4095}
detectors: {stfpm: {epochs: 5}}
retrain: {floors: {aupro: 0.2}}
categories:
  plate:
    images: {size: 512}
    detectors: {stfpm: {batch_size: 4}, patchcore: {coreset: 0.1}}
    retrain: {detectors: [patchcore], floors: {image_auroc: 0.9}}
"""


def test_a_category_has_the_settings_of_the_file_but_for_its_own(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, OVERRIDES))
    plate, cloth = settings.for_category("plate"), settings.for_category("cloth")
    assert (plate.images.size, plate.images.white_level) == (512, 4095)
    assert plate.detectors == {
        "stfpm": {"epochs": 5, "batch_size": 4},
        "patchcore": {"coreset": 0.1},
    }
    assert plate.retrain.detectors == ("patchcore",)
    assert (plate.retrain.floors.aupro, plate.retrain.floors.image_auroc) == (0.2, 0.9)
    assert plate.state_dir == tmp_path / ".stillwatch"
    assert plate.categories == {}
    assert cloth == settings.model_copy(update={"categories": {}})


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("imags: {size: 64}", "plate.imags: unknown setting 'imags' (did you mean 'images'?)"),
        ("size: 64", "plate.size: unknown setting 'size' (did you mean 'images.size'?)"),
        ("images: {sise: 64}", "plate.images: unknown setting 'sise' (did you mean 'size'?)"),
        ("images: {size: 8}", "plate.images.size: Input should be greater than or equal to 32"),
        ("calibration: {alpha_reject: 0.3}", "plate.calibration: alpha_review (0.15) must be"),
        ("serving: {batch_size: 1}", "plate.serving is the same for all categories: move it"),
        ("training: {device: cpu}", "set training.device instead"),
        ("images: null", "plate.images: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_setting_of_a_category_is_named(
    tmp_path: Path, override: str, sentence: str
) -> None:
    path = write(tmp_path, f"categories: {{plate: {{{override}}}}}")
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert f"{path}: categories.plate." in str(caught.value)
    assert sentence in str(caught.value)


def test_a_name_that_no_category_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"categories: 'Plate' is no category"):
        load_settings(write(tmp_path, "categories: {Plate: {images: {size: 64}}}"))
