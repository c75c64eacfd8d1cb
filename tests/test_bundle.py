import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_bundles import make_bundle, make_info

from stillwatch.bundle import (
    INFO_FILE,
    REGION_FILE,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
    BundleInfo,
    read_bundle,
    read_weights,
    recalibrated,
    write_bundle,
)
from stillwatch.calibration import calibrate
from stillwatch.errors import BundleError, CalibrationError, StorageError
from stillwatch.images.region import Region


def edit_info(folder: Path, **changes: Any) -> None:
    path = folder / INFO_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(40).astype(np.float32)
    tensors = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.array(3, np.int64),
        "empty": np.empty((0, 4), np.float32),
        "half": np.ones(2, np.float16),
    }
    written = write_bundle(tmp_path / "bundle", make_info(scores, groups={"a": 40}), tensors)
    found = read_bundle(tmp_path / "bundle")
    assert found == written
    assert found.info.calibration == calibrate(scores, alpha_reject=0.05, alpha_review=0.15)
    weights = read_weights(found)
    assert weights.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(weights[name], tensor, strict=True)
    assert {file.name for file in found.folder.iterdir()} == {INFO_FILE, WEIGHTS_FILE}


def test_a_bundle_replaces_the_one_before(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", category="plate")
    make_bundle(tmp_path / "bundle", category="cloth")
    assert read_bundle(tmp_path / "bundle").info.category == "cloth"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_pictures_beside_it_are_no_trouble(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle.folder / "gallery.png").write_bytes(b"")
    assert read_bundle(bundle.folder) == bundle


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        make_bundle(tmp_path / "file" / "bundle")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nothing/bundle.json: cannot be read"):
        read_bundle(tmp_path / "nothing")


def test_missing_weights(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle.folder / WEIGHTS_FILE).unlink()
    with pytest.raises(BundleError, match=r"safetensors: cannot be read \(No such file"):
        read_bundle(bundle.folder)
    with pytest.raises(BundleError, match="cannot be read as safetensors"):
        read_weights(bundle)


def test_truncated_weights(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle").folder / WEIGHTS_FILE
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with pytest.raises(BundleError, match=f"truncated, has {len(data) - 5} of {len(data)} bytes"):
        read_bundle(path.parent)


def test_one_flipped_bit_in_the_weights(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle").folder / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="damaged or was replaced"):
        read_bundle(path.parent)


def test_weights_that_are_no_safetensors(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle.folder / WEIGHTS_FILE).write_bytes(b"pickle")
    with pytest.raises(BundleError, match="cannot be read as safetensors"):
        read_weights(bundle)


def test_truncated_json(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle").folder / INFO_FILE
    path.write_text(path.read_text()[:-20])
    with pytest.raises(BundleError, match="truncated or not JSON"):
        read_bundle(path.parent)


def test_json_that_is_no_text(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle").folder / INFO_FILE
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="truncated or not JSON"):
        read_bundle(path.parent)


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema_version": "1"}', '{"schema_version": 0}'])
def test_json_that_is_no_bundle(tmp_path: Path, text: str) -> None:
    path = make_bundle(tmp_path / "bundle").folder / INFO_FILE
    path.write_text(text)
    with pytest.raises(BundleError, match="names no schema_version"):
        read_bundle(path.parent)


def test_a_newer_schema_is_refused_before_its_fields(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    edit_info(bundle.folder, schema_version=SCHEMA_VERSION + 1, field_of_the_future=1)
    with pytest.raises(BundleError, match=r"schema version 2, .* up to 1\. Update stillwatch"):
        read_bundle(bundle.folder)


def test_an_unknown_field_is_named(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    edit_info(bundle.folder, categry="plate")
    with pytest.raises(BundleError, match=r"'categry' \(did you mean 'category'"):
        read_bundle(bundle.folder)


def test_a_threshold_that_is_not_its_score_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    calibration = json.loads((bundle.folder / INFO_FILE).read_text())["calibration"]
    calibration["reject"]["value"] = 120.0
    edit_info(bundle.folder, calibration=calibration)
    with pytest.raises(BundleError, match=r"threshold 120\.0 is not calibration score number 20"):
        read_bundle(bundle.folder)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        make_info(
            np.arange(20, dtype=np.float32), normal_scores={"train": [np.nan], "validation": []}
        )


def test_another_alpha_needs_no_inference(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    other = recalibrated(bundle, tmp_path / "other", alpha_reject=0.1, alpha_review=0.3)
    assert read_bundle(tmp_path / "other") == other
    assert other.info.calibration == calibrate(
        np.arange(81, 101), alpha_reject=0.1, alpha_review=0.3
    )
    same = {"calibration"}
    assert other.info.model_dump(exclude=same) == bundle.info.model_dump(exclude=same)
    np.testing.assert_array_equal(read_weights(other)["weight"], read_weights(bundle)["weight"])
    assert read_bundle(bundle.folder) == bundle


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    Region(np.eye(16, dtype=bool)).save(tmp_path / "drawn.png")
    return tmp_path / "drawn.png"


def test_the_region_is_part_of_the_bundle(tmp_path: Path, drawn: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", drawn)
    other = recalibrated(bundle, tmp_path / "other", alpha_reject=0.1, alpha_review=0.3)
    for one in (bundle, other):
        assert read_bundle(one.folder) == one
        assert (one.folder / REGION_FILE).read_bytes() == drawn.read_bytes()
    assert make_bundle(tmp_path / "third").info.region is None


def test_another_region_than_the_bundles_is_refused(tmp_path: Path, drawn: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", drawn)
    Region(np.ones((16, 16), bool)).save(bundle.folder / REGION_FILE)
    with pytest.raises(BundleError, match=r"region\.png: .*damaged or was replaced|truncated"):
        read_bundle(bundle.folder)
    (bundle.folder / REGION_FILE).unlink()
    with pytest.raises(BundleError, match=r"region\.png: cannot be read"):
        read_bundle(bundle.folder)


def test_a_bundle_may_be_recalibrated_in_place(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    recalibrated(bundle, bundle.folder, alpha_reject=0.1, alpha_review=0.3)
    assert read_bundle(bundle.folder).info.calibration.reject.alpha == 0.1


def test_an_unreachable_alpha_leaves_no_folder(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(CalibrationError, match="needs 99"):
        recalibrated(bundle, tmp_path / "other", alpha_reject=0.01, alpha_review=0.15)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_every_field_is_in_the_file(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    values = json.loads((bundle.folder / INFO_FILE).read_text())
    assert values.keys() == BundleInfo.model_fields.keys()
    assert values["calibration"]["scores"] == list(range(81, 101))
    assert values["weights_bytes"] == (bundle.folder / WEIGHTS_FILE).stat().st_size
