import json
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from made_judgements import DEFECT, GOOD, TRAIN, found_in, judge
from made_manifests import SETTINGS, changed, make_category, read_manifest, with_rows
from made_prefect import new_prefect_database, prefect_server
from prefect import flow
from prefect.artifacts import Artifact

from stillwatch.errors import ValidationError
from stillwatch.images.manifest import Manifest
from stillwatch.settings import CalibrationSettings
from stillwatch.tasks.libraries.artifact_keys import artifact_key
from stillwatch.tasks.validation.checkpoint import manifest_frame
from stillwatch.tasks.validation.report import Failure, ValidationReport
from stillwatch.tasks.validation.statistics import category_statistics
from stillwatch.tasks.validation.task import (
    page_path,
    table_rows,
    validate,
    validate_manifest,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(make_category(tmp_path_factory.mktemp("sound") / "board", anomalies=5))


def test_a_sound_category_passes_without_warnings(sound: Manifest) -> None:
    report = judge(sound)
    assert report.passed
    assert report.failures == ()
    assert report.errored == ()
    assert report.verdict() == "board is ready for training"
    assert report.reason() == ""
    report.raise_if_failed()
    assert {outcome.state for outcome in report.outcomes} == {"passed"}
    assert len({outcome.name for outcome in report.outcomes}) == len(report.outcomes) >= 20


def test_the_facts_count_images_per_split_part_and_defect_type(sound: Manifest) -> None:
    facts = judge(sound).facts
    assert facts["split"] == {"train": 40, "test": 9}
    assert facts["part"] == {"train": 17, "validation": 4, "calibration": 19, "test": 9}
    assert facts["defect_type"] == {"good": 4, "scratch": 5}
    assert facts["mask"] == {"scratch": 5}


@dataclass(frozen=True)
class Fault:
    """The changed facts of one image, and the expected failure."""

    check: str
    severity: str
    path: str
    facts: dict[str, Any]
    found: str


def faults(manifest: Manifest) -> list[Fault]:
    """One fault for each check on images, each in another image."""
    train = [row for row in manifest.rows if row.part == "train"]
    good = [row.path for row in manifest.rows if row.path.startswith("test/good/")]
    defects = [row for row in manifest.rows if row.defect_type != "good"]
    no_mask = dict.fromkeys(("mask", "mask_width", "mask_height", "mask_area"))
    inverted = {"mask_doubt": "marks 92% of the image"}
    odd_mask = f"{defects[4].mask}: truncated; replace it"
    first, copy = train[0], train[1].path
    return [
        Fault(
            "no_test_image_in_train",
            "critical",
            defects[0].path,
            {"md5": first.md5},
            f"the same bytes as {first.path} and {copy}",
        ),
        Fault("anomalies_with_mask", "critical", defects[1].path, no_mask, "no mask"),
        Fault("mask_size", "critical", defects[2].path, {"mask_width": 32}, "32×64 pixels"),
        Fault("mask_not_empty", "critical", defects[3].path, {"mask_area": 0}, "marks none"),
        Fault(
            "mask_readable",
            "critical",
            defects[4].path,
            {**no_mask, "mask": defects[4].mask, "mask_error": f"/data/board/{odd_mask}."},
            odd_mask,
        ),
        Fault(
            "normals_without_mask",
            "critical",
            good[0],
            {"mask": "ground_truth/good/000_mask.png", "mask_area": 9},
            "the mask ground_truth/good/000_mask.png marks 9 pixels",
        ),
        Fault("mask_plausible", "critical", defects[2].path, inverted, "marks 92% of the image"),
        Fault("mask_of_two_values", "warning", defects[1].path, {"mask_values": 9}, "has 9: those"),
        Fault("same_mode", "warning", good[1], {"mode": "L"}, "mode L"),
        Fault("same_size", "warning", good[2], {"width": 80}, "80×64 pixels"),
        Fault("not_dark", "warning", good[3], {"mean": 3.0}, "dark: mean grey value 3, "),
        Fault("distinct_in_train", "warning", copy, {"md5": first.md5}, first.path),
        Fault("not_blurred", "warning", train[2].path, {"sharpness": 1.0}, "blurred: sharpness 1,"),
        Fault("not_blown_out", "warning", train[3].path, {"mean": 250.0}, "blown out: mean grey"),
        Fault("not_clipped", "warning", train[4].path, {"clipped": 0.6}, "60%"),
        Fault("large_enough", "critical", train[5].path, {"width": 31}, "31×64 pixels"),
        Fault("same_size", "warning", train[5].path, {}, "31×64 pixels"),
    ]


def test_each_fault_is_found_once_and_without_other_failures(sound: Manifest) -> None:
    faulty = sound
    for fault in faults(sound):
        faulty = changed(faulty, fault.path, **fault.facts)
    report = judge(faulty)
    expected = {(fault.check, fault.severity, fault.path) for fault in faults(sound)}
    assert found_in(report) == expected
    assert len(report.failures) == len(expected)
    for fault in faults(sound):
        (failure,) = (one for one in report.of_check(fault.check) if one.path == fault.path)
        assert fault.found in failure.found
    assert not report.passed


@pytest.mark.parametrize(
    ("name", "found"),
    [("-rf.png", "begins with a dash"), ("\udcff.png", "is not valid UTF-8")],
    ids=["dash", "bytes"],
)
def test_a_file_name_that_is_not_safe(sound: Manifest, name: str, found: str) -> None:
    report = judge(changed(sound, GOOD, path=f"test/good/{name}"))
    assert found_in(report) == {("safe_names", "critical", f"test/good/{name}")}
    assert found in report.failures[0].found
    json.dumps(table_rows(report), ensure_ascii=False).encode("utf-8")


def test_a_name_with_a_colon_is_a_warning(sound: Manifest) -> None:
    report = judge(changed(sound, GOOD, path="test/good/12:30:07.png"))
    assert found_in(report) == {("names_for_windows", "warning", "test/good/12:30:07.png")}


def test_limits_come_from_the_settings(sound: Manifest) -> None:
    report = judge(sound, min_side=65, min_train_normals=18, max_clipped=0.5)
    assert len(report.of_check("large_enough")) == 49
    (failure,) = report.of_check("enough_train_normals")
    assert failure == Failure(
        check="enough_train_normals",
        severity="critical",
        path=None,
        expected="at least 18 different images to learn from",
        found="17, of 40 good images (17 to learn from, 19 calibrate, 4 watch the training): add 2 "
        "more good images",
    )


def test_calibration_must_be_large_enough_for_the_smaller_alpha(sound: Manifest) -> None:
    calibration = CalibrationSettings(alpha_reject=0.04, alpha_review=0.15)
    report = validate_manifest(sound, SETTINGS.model_copy(update={"calibration": calibration}))
    (failure,) = report.failures
    assert (failure.check, failure.path) == ("enough_calibration_normals", None)
    assert failure.expected == "at least 24 calibration normals for a false-alarm rate of 0.04"
    assert failure.found == (
        "19, of 40 good images (17 to learn from, 19 calibrate, 4 watch the training): add 5 more "
        "good images (19 allow a rate of 0.05 or more)"
    )


def test_a_defect_that_almost_vanishes_when_scaled_is_a_warning(sound: Manifest) -> None:
    large = with_rows(
        sound,
        lambda row: replace(
            row,
            width=640,
            height=640,
            mask_width=row.mask_width and 640,
            mask_height=row.mask_height and 640,
        ),
    )
    report = judge(changed(large, DEFECT, smallest_defect=(8, 200)))
    assert report.passed
    (failure,) = report.failures
    assert (failure.check, failure.severity) == ("defect_large_enough", "warning")
    assert failure.found == (
        "80 × 3.2 pixels with scale fit, size 256. The smallest annotated defect: 200 × 8 pixels, "
        f"on {DEFECT}."
    )


def test_normals_without_a_part_are_reported_as_unassigned(sound: Manifest) -> None:
    report = judge(
        with_rows(
            sound, lambda row: replace(row, part="unassigned") if row.split == "train" else row
        )
    )
    (failure,) = report.of_check("enough_train_normals")
    assert failure.found == (
        "0, of 40 good images (0 to learn from, 0 calibrate, 0 watch the training, 40 have no part "
        "yet): add 10 more good images"
    )


def test_copies_of_one_image_count_once(sound: Manifest) -> None:
    report = judge(
        with_rows(sound, lambda row: replace(row, md5="0" * 32) if row.part == "train" else row)
    )
    (failure,) = report.of_check("enough_train_normals")
    assert failure.found.startswith("1, of 24 good images (1 to learn from")


def test_no_mask_at_all_means_image_metrics_only(sound: Manifest) -> None:
    report = judge(
        with_rows(
            sound,
            lambda row: replace(row, mask=None, mask_width=None, mask_height=None, mask_area=None),
        )
    )
    assert report.passed
    assert found_in(report) == {("any_mask", "warning", None)}
    assert report.failures[0].found == "none: image metrics only"


def test_no_anomalies_mean_that_they_will_be_synthetic(sound: Manifest) -> None:
    report = judge(with_rows(sound, lambda row: row if row.defect_type == "good" else None))
    assert report.passed
    assert found_in(report) == {("test_anomalies", "warning", None)}
    assert "synthetic" in report.failures[0].found


def test_no_test_normals_are_a_warning(sound: Manifest) -> None:
    report = judge(with_rows(sound, lambda row: None if row.path.startswith("test/good") else row))
    assert found_in(report) == {("test_normals", "warning", None)}


def test_a_white_background_is_one_warning_for_the_category(sound: Manifest) -> None:
    report = judge(with_rows(sound, lambda row: replace(row, clipped=0.7)))
    assert found_in(report) == {("not_clipped", "warning", None)}
    assert "70%" in report.failures[0].found


def test_a_file_that_the_version_does_not_list_was_added_during_the_run(sound: Manifest) -> None:
    recorded = with_rows(sound, lambda row: replace(row, expected_md5=row.md5))
    assert judge(recorded).failures == ()
    report = judge(changed(recorded, GOOD, expected_md5=None))
    assert found_in(report) == {("bytes_as_recorded", "critical", GOOD)}
    assert report.failures[0].found == "not listed: added during the run"


def test_a_category_without_a_readable_image_gets_a_report(sound: Manifest) -> None:
    nothing = dict.fromkeys(("width", "height", "mode", "mean", "std", "clipped"))
    nothing |= dict.fromkeys(("sharpness", "hash"))
    report = judge(
        with_rows(sound, lambda row: replace(row, decode_error=f"{row.path}: damaged.", **nothing))
    )
    assert report.errored == ()
    assert {failure.check for failure in report.failures} == {"decodes"}
    assert len(report.failures) == 49
    assert "and 44 more critical failures" in report.reason()


def test_critical_failures_come_first(sound: Manifest) -> None:
    report = judge(changed(changed(sound, TRAIN, mean=250.0), DEFECT, mask_area=0))
    assert [failure.severity for failure in report.failures] == ["critical", "warning"]


def test_a_broken_check_is_distinguished_from_failed_images(sound: Manifest) -> None:
    from stillwatch.tasks.validation.checkpoint import build_report, run_checkpoint
    from stillwatch.tasks.validation.suite import build_suite

    checks = SETTINGS.checks
    statistics = category_statistics(sound, near_duplicate_ratio=checks.near_duplicate_ratio)
    suite = build_suite(sound, statistics, settings=SETTINGS)
    frame = manifest_frame(sound, statistics).drop(columns="sharpness_z")
    report = build_report(sound, statistics, suite, run_checkpoint(frame, suite))
    assert report.failures == ()
    (message,) = report.errored
    assert message.startswith("check not_blurred broke: ")
    assert "sharpness_z" in message
    assert not report.passed
    states = {outcome.name: outcome.state for outcome in report.outcomes}
    assert states.pop("not_blurred") == "broke"
    assert set(states.values()) == {"passed"}
    with pytest.raises(ValidationError, match="board: check not_blurred broke"):
        report.raise_if_failed()
    assert table_rows(report)[0]["severity"] == "broke"


def test_a_failure_without_evidence_is_a_broken_check_and_never_a_pass(sound: Manifest) -> None:
    from stillwatch.tasks.validation.checkpoint import Judgement, build_report
    from stillwatch.tasks.validation.suite import build_suite

    checks = SETTINGS.checks
    statistics = category_statistics(sound, near_duplicate_ratio=checks.near_duplicate_ratio)
    suite = build_suite(sound, statistics, settings=SETTINGS)
    silent = Judgement(success=False, paths=frozenset(), observed=None, error=None)
    report = build_report(sound, statistics, suite, {check.name: silent for check in suite})
    assert not report.passed
    assert len(report.errored) == len(suite)
    assert {outcome.state for outcome in report.outcomes} == {"broke"}


def test_categories_can_be_validated_in_several_threads(sound: Manifest) -> None:
    paths = [f"train/good/{index:03}.png" for index in range(3)]
    reports: dict[str, ValidationReport] = {}

    def work(path: str) -> None:
        reports[path] = judge(changed(sound, path, width=20))

    threads = [threading.Thread(target=work, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path in paths:
        assert [failure.path for failure in reports[path].of_check("large_enough")] == [path]


def test_the_table_has_the_expected_and_the_found_value_of_each_file(sound: Manifest) -> None:
    rows = table_rows(judge(changed(sound, DEFECT, mask_area=0)))
    assert rows == [
        {
            "file": DEFECT,
            "check": "mask_not_empty",
            "severity": "critical",
            "expected": "at least one marked pixel",
            "found": "ground_truth/scratch/001_mask.png marks none",
        }
    ]


def test_artifact_keys_are_valid_in_prefect() -> None:
    assert artifact_key("validation", "metal_nut") == "validation-metal-nut"


@pytest.mark.servers
def test_the_task_creates_a_table_and_a_page_in_prefect(tmp_path: Path) -> None:
    folder = make_category(tmp_path / "metal_nut")
    (folder / TRAIN).write_bytes(b"")
    manifest = read_manifest(folder)
    settings = SETTINGS.model_copy(update={"state_dir": tmp_path / "state"})
    page = page_path(settings.state_dir, "metal_nut")

    @flow
    def one_category() -> ValidationReport:
        return validate(
            manifest,
            folder=folder,
            settings=settings,
            data_version="0123.dir",
        )

    new_prefect_database(settings.state_dir)
    with prefect_server(settings):
        report = one_category()
        table = Artifact.get("validation-metal-nut")
        summary = Artifact.get("validation-metal-nut-page")
    assert not report.passed
    assert table is not None
    assert TRAIN in str(table.data)
    assert summary is not None
    assert str(page) in str(summary.data)
    assert TRAIN in page.read_text(encoding="utf-8")
