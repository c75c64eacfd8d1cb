from pathlib import Path

import pytest
from made_manifests import make_category, read_manifest
from made_stores import new_store

from stillwatch.errors import ArtefactError
from stillwatch.settings import Settings
from stillwatch.tasks.training.training_images import (
    TRAINING_IMAGES,
    read_appearance,
    read_training_images,
    record_training_images,
)


def test_train_validation_and_calibration_are_recorded_and_test_is_not(
    settings: Settings, tmp_path: Path
) -> None:
    tracking = new_store(settings)
    manifest = read_manifest(make_category(tmp_path / "plate"))
    run_id = tracking.start_run("plate", "stfpm", {})
    record_training_images(tracking, run_id, manifest)
    rows = [row for row in manifest.rows if row.split == "train"]
    assert read_training_images(tracking, run_id) == {row.md5 for row in rows}
    appearance = read_appearance(tracking, run_id)
    assert appearance.brightness == tuple(row.mean for row in rows)
    assert appearance.sharpness == tuple(row.sharpness for row in rows)


@pytest.mark.parametrize("content", [None, "[]", '{"md5": '])
def test_a_missing_or_damaged_record_is_an_error(settings: Settings, content: str | None) -> None:
    tracking = new_store(settings)
    run_id = tracking.start_run("plate", "stfpm", {})
    if content is not None:
        tracking.client.log_text(run_id, content, TRAINING_IMAGES.name)
    for read in (read_training_images, read_appearance):
        with pytest.raises(ArtefactError, match="missing or damaged"):
            read(tracking, run_id)
