from pathlib import Path

import pytest
from made_manifests import make_category, read_manifest
from made_stores import new_store

from stillwatch.errors import TrackingError
from stillwatch.settings import Settings
from stillwatch.tasks.training.training_images import (
    LEARNT_FROM,
    read_appearance,
    read_learnt_from,
    record_learnt_from,
)


def test_train_validation_and_calibration_are_recorded_and_test_is_not(
    settings: Settings, tmp_path: Path
) -> None:
    tracking = new_store(settings)
    manifest = read_manifest(make_category(tmp_path / "plate"))
    run_id = tracking.start_run("plate", "stfpm", {})
    assert read_learnt_from(tracking, run_id) is None
    assert read_appearance(tracking, run_id) is None
    record_learnt_from(tracking, run_id, manifest)
    learnt = read_learnt_from(tracking, run_id)
    rows = [row for row in manifest.rows if row.split == "train"]
    assert learnt == {row.md5 for row in rows}
    looks = read_appearance(tracking, run_id)
    assert looks is not None
    assert looks.brightness == tuple(row.mean for row in rows)
    assert looks.sharpness == tuple(row.sharpness for row in rows)


def test_a_damaged_record_is_not_taken_for_none(settings: Settings) -> None:
    tracking = new_store(settings)
    run_id = tracking.start_run("plate", "stfpm", {})
    tracking.client.log_text(run_id, '{"train": ', LEARNT_FROM.name)
    for read in (read_learnt_from, read_appearance):
        with pytest.raises(TrackingError, match="damaged"):
            read(tracking, run_id)
