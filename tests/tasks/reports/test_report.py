"""Reports of evaluations in an MLflow store, and of records with one changed value."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_pages import Page
from made_registries import MISSED
from made_retrainings import BLIND, SEES, SOUND, RetrainedPlate

from stillwatch.errors import StorageError, TrackingError
from stillwatch.tasks.evaluation.gallery import GALLERY, MOST, STRIP, read_shown_images
from stillwatch.tasks.evaluation.result import GroupResult
from stillwatch.tasks.promotion import disagreement
from stillwatch.tasks.registry.approval import NOT_PROMOTED
from stillwatch.tasks.reports.approval import approval_page
from stillwatch.tasks.reports.description import version_description
from stillwatch.tasks.reports.page import report_page
from stillwatch.tasks.reports.record import RetrainingRecord, find_retraining, read_retraining
from stillwatch.tasks.reports.sentences import summary
from stillwatch.tasks.reports.task import write_report
from stillwatch.tasks.training.retraining_run import finish_retraining_run
from stillwatch.tasks.validation.report import CheckOutcome, Failure

pytestmark = pytest.mark.xdist_group("report")  # its fixtures take seconds


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> RetrainedPlate:
    return RetrainedPlate(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def first(plate: RetrainedPlate) -> RetrainingRecord:
    """Two candidates, of which the one that sees scratches became the first champion."""
    run = plate.begin(SEES, BLIND)
    winner = plate.evaluated(run, SEES)
    plate.evaluated(run, BLIND)
    plate.ended(run, winner)
    return read_retraining(plate.tracking, run)


@pytest.fixture(scope="module")
def second(plate: RetrainedPlate, first: RetrainingRecord) -> RetrainingRecord:
    """The blind candidate alone, compared with that champion."""
    (blind,) = (one.result for one in first.detectors if one.name == BLIND)
    assert blind is not None
    run = plate.begin(BLIND)
    plate.reused(run, blind)
    plate.ended(run, blind)
    return read_retraining(plate.tracking, run)


def page_of(record: RetrainingRecord) -> Page:
    """The parsed HTML page."""
    page = Page(report_page(record))
    assert page.needs == set()
    assert [address for address in page.addresses if not address.startswith(("data:", "#"))] == []
    assert page.tags.count("h1") == page.tags.count("main") == page.tags.count("header") == 1
    assert all(heading["scope"] in ("row", "col") for heading in page.headings)
    assert all(image["alt"] for image in page.images)
    assert len(page.html) < 3_000_000
    return page


def test_the_report_of_the_first_champion(first: RetrainingRecord) -> None:
    page = page_of(first)
    assert first.winner is not None
    reject = first.winner.bundle.calibration.reject
    for said in (
        "plate: patchcore registered as version 1, champion",
        "patchcore won over stfpm by image AUROC",
        "On the test images it finds 12 of 12 defects",
        "plate is ready for training",
        "calibration 19 set the thresholds; nothing else sees them",
        "There was no champion to compare it with",
        "Of 100 new good parts about 5 will be rejected",
        "With these 19 calibration images we can promise, with 95 % confidence, at most 14.6",
        f"{reject.value:.5g}",
        "scratch 12 12 0 0 1.000",
        "Of 12 anomalies 0 pass. False alarms",
        "Anomalies whose verdict a person corrected: 3 of 3 rejected, 0 set aside",
        "scratch 3 3 0 0 1.000",
        "detectors.stfpm.epochs 2",
        "images.size 64",
    ):
        assert said in page.words, said
    for detector in first.detectors:
        assert detector.result is not None
        assert detector.run_id is not None
        assert f"{detector.result.metrics['image_auroc']:.3f}" in page.words
        assert detector.run_id in page.words


def test_the_page_begins_with_sentences_and_pictures_and_folds_the_rest(
    second: RetrainingRecord,
) -> None:
    page = page_of(second)
    outside = re.sub(r"<details>.*?</details>", "", page.html, flags=re.DOTALL)
    begin = [outside.index(part) for part in ("On the test images it", "Promise: of 100", "<img")]
    assert begin == sorted(begin)
    assert "<table" not in outside
    assert 'class="chart"' not in outside
    assert "details::details-content { content-visibility: visible" in page.html, "for printing"
    assert "prefers-color-scheme: dark" in page.html
    assert "map on its own scale" in page.words


def test_the_description_of_a_version_has_sentences_pictures_and_links(
    plate: RetrainedPlate, first: RetrainingRecord
) -> None:
    assert first.winner is not None
    run_id = first.winner.result.run_id
    said = version_description(first, first.winner, "#/report", approval="http://prefect/page")
    for part in (
        "**patchcore** for plate",
        "finds 12 of 12 defects; rejects",
        "Promise: of 100 new good parts about 5 are rejected",
        f"![Four test images](get-artifact?path=gallery%2F{STRIP}&run_uuid={run_id})",
        "[Report](#/report) · [Approval](http://prefect/page)",
    ):
        assert part in said, part
    assert "Approval" not in version_description(first, first.winner, "#/report", approval=None)
    stored = plate.tracking.client.list_artifacts(run_id, GALLERY)
    assert f"{GALLERY}/{STRIP}" in {one.path for one in stored}


def test_pictures_show_test_images_with_mistakes_first(second: RetrainingRecord) -> None:
    page = page_of(second)
    assert second.winner is not None
    rows = {row["path"]: row for row in second.winner.rows}
    shown = [image["alt"] for image in page.images if image["alt"] in rows]
    missed = [path for path, row in rows.items() if row["label"] and row["verdict"] == "pass"]
    assert missed, "an untrained student misses some"
    assert set(shown[: len(missed)]) == set(missed)
    assert len(shown) == min(len(rows), MOST)
    assert f"Of 12 anomalies {len(missed)} pass; {len(missed)} shown" in page.words
    outlined = [image for image in page.images if "defect outlined" in (image["alt"] or "")]
    assert len(outlined) == sum(rows[path or ""]["label"] for path in shown)


def test_the_comparison_has_both_figures_and_their_difference(
    first: RetrainingRecord, second: RetrainingRecord
) -> None:
    page = page_of(second)
    assert first.winner is not None
    assert second.winner is not None
    ours, theirs = (one.winner.result.metrics["image_auroc"] for one in (second, first))
    assert f"image AUROC {ours:.3f} {theirs:.3f} {ours - theirs:+.3f}" in page.words
    for said in (
        "plate: stfpm registered as version 2, challenger",
        "Only stfpm could be chosen",
        "trained by an earlier retraining",
        "The gate refused it: nobody may make it champion",
        "Compared with the champion of that time, version 1: worse",
        "It is surely worse than the champion.",
        "decides",
    ):
        assert said in page.words, said


@pytest.mark.parametrize(
    ("latency", "vetoes", "row"),
    [
        (
            {"interval": [19.5, 90.0], "budget_ms": 30.0},
            [],
            "| latency, ms per image | 20.0 (19.5 to 90.0) | 12.5 | +7.5 | budget 30 | may veto |",
        ),
        (
            {"interval": None, "budget_ms": 15.0},
            ["latency"],
            "| latency, ms per image | 20.0 | 12.5 | +7.5 | budget 15 | vetoes |",
        ),
        (
            {"interval": None, "budget_ms": None},
            [],
            "| latency, ms per image | 20.0 | 12.5 | +7.5 | – | – |",
        ),
    ],
    ids=["with an interval", "vetoes", "without a budget"],
)
def test_the_comparison_has_the_latency_of_both_versions(
    second: RetrainingRecord, latency: dict[str, object], vetoes: list[str], row: str
) -> None:
    assert second.winner is not None
    assert second.winner.version is not None
    measured = {"champion_ms": 12.5, "challenger_ms": 20.0} | latency
    comparison = {**second.winner.comparison, "latency": measured, "vetoes": vetoes}
    record = replace(second, winner=replace(second.winner, comparison=comparison))
    assert row in approval_page(record, second.winner.version, "report.html")
    assert "latency, ms per image 20.0" in page_of(record).words


def test_images_with_different_verdicts_are_shown_side_by_side(
    first: RetrainingRecord, second: RetrainingRecord
) -> None:
    assert first.winner is not None
    assert first.winner.disagreement is None
    assert second.winner is not None
    found = second.winner.disagreement
    assert found is not None
    before = {row["path"]: row["verdict"] for row in first.winner.rows}
    after = {row["path"]: row["verdict"] for row in second.winner.rows}
    differ = {path for path in before if before[path] != after[path]}
    assert found.worse + found.better == len(differ)
    assert found.worse > found.better, "the blind one misses what the champion saw"
    assert {one.name for one in found.images} <= differ
    assert len(found.images) == min(len(differ), disagreement.MOST)
    for one in found.images:
        assert (one.champion, one.challenger) == (before[one.name], after[one.name])
    lost = [one for one in found.images if one.defect_type != "good" and one.challenger == "pass"]
    assert lost
    assert found.images[0] in lost, "what would be lost comes first"
    page = page_of(second)
    assert f"differ on {len(differ)} images" in page.words
    assert "champion: reject, new version: pass" in page.words


def test_the_approval_page_has_the_evidence_and_the_instructions(second: RetrainingRecord) -> None:
    assert second.winner is not None
    assert second.winner.version is not None
    assert second.winner.version.judgement is not None
    missed = {"missed_floors": MISSED}
    judgement = second.winner.version.judgement.model_copy(update=missed)
    waiting = replace(second.winner.version, approval="pending", judgement=judgement)
    record = replace(second, winner=replace(second.winner, version=waiting))
    said = approval_page(record, waiting, "http://mlflow/report.html", form="/v2/form")
    assert said.startswith("# plate: version 2 waits for approval")
    for part in (
        "| figure | version 2 | champion, version 1 |",
        "**champion: reject, new version: pass**",
        "(data:image/jpeg;base64,",
        "[The whole report](http://mlflow/report.html)",
        "stillwatch promote plate --version 2 --approve --reason '...' --despite '...'",
        MISSED,
        "the field *despite* of the form",
        "[fill in your name and a reason](/v2/form)",
        "`stillwatch.approval`",
    ):
        assert part in said, part


def test_a_missed_minimum_is_reported_with_a_remedy(first: RetrainingRecord) -> None:
    assert first.winner is not None
    assert first.winner.version is not None
    tags = {NOT_PROMOTED: "image_auroc 0.612 is below its floor 0.7"}
    waiting = replace(first.winner.version, aliases=("challenger",), approval="pending", tags=tags)
    page = page_of(replace(first, winner=replace(first.winner, version=waiting)))
    assert "was not promoted automatically: image_auroc 0.612 is below its floor" in page.words
    assert "stillwatch promote plate --version 1 --approve" in page.words
    assert "There was no champion to compare it with" in page.words


def test_a_detector_that_failed_is_named_with_its_reason(
    plate: RetrainedPlate, first: RetrainingRecord
) -> None:
    reason = "the loss is <nan> & stays so"
    (sees, _) = first.detectors
    assert sees.result is not None
    run = plate.begin(SEES, BLIND, "autoencoder")
    plate.reused(run, sees.result)
    plate.tracking.fail_run(plate.begun(run, BLIND), reason)
    finish_retraining_run(plate.settings, run, f"stfpm: {reason}")
    page = page_of(read_retraining(plate.tracking, run))
    for said in (
        "plate: the retraining failed",
        f"stfpm failed: {reason}",
        "autoencoder its training did not start",
        "Nothing was registered",
        "The figures of patchcore are below",
    ):
        assert said in page.words, said
    assert "#gallery" not in page.addresses


def test_of_two_runs_of_one_candidate_the_later_counts(plate: RetrainedPlate) -> None:
    parent = plate.begin(BLIND)
    plate.tracking.fail_run(plate.begun(parent, BLIND), "was cut off")
    time.sleep(0.002)  # MLflow's times have milliseconds
    later = plate.begun(parent, BLIND)
    (found,) = read_retraining(plate.tracking, parent).detectors
    assert found.run_id == later


def test_several_seeds_have_mean_and_spread(plate: RetrainedPlate, first: RetrainingRecord) -> None:
    run = plate.begin(SEES, BLIND, seeds=(3, 4))
    for one in first.detectors:
        assert one.result is not None
        for seed in (3, 4):
            plate.reused(run, one.result, f"{one.name} seed {seed}")
    finish_retraining_run(plate.settings, run)
    record = read_retraining(plate.tracking, run)
    page = page_of(replace(record, winner=first.winner))
    for said in (
        "patchcore won over stfpm by the mean image AUROC over 2 seeds",
        "trained with seed 3, the first of 3, 4",
        "stfpm seed 4 trained by an earlier retraining",
        "training.seed 3, 4",
        "2 seeds 1.000 ± 0.000",
    ):
        assert said in page.words, said
    assert "±" not in page_of(first).words


def test_a_baseline_that_may_not_win_did_not_lose(first: RetrainingRecord) -> None:
    assert first.winner is not None
    distils = replace(first.winner, detector=BLIND)
    changed = {"retrain.allow_baselines": False}
    record = replace(first, winner=distils, changed_settings=changed)
    assert "Only stfpm could be chosen." in summary(record)


def test_names_in_the_report_are_escaped(first: RetrainingRecord) -> None:
    evil = "<script>alert(1)</script> & <img src=x>"
    assert first.winner is not None
    images = tuple(
        one.model_copy(update={"name": f"test/{evil}.png", "defect_type": evil})
        for one in first.winner.images
    )
    rows = [{**row, "defect_type": evil} for row in first.winner.rows]
    check = CheckOutcome(evil, evil, evil, "warning", "failed", 1, on_images=True)
    record = replace(
        first,
        category=evil,
        winner=replace(first.winner, images=images, rows=rows),
        validation=replace(SOUND, category=evil, outcomes=(check,)),
        changed_settings={f"detectors.{evil}": evil},
    )
    page = page_of(record)
    assert page.text.count(evil) > 2 * len(images)
    assert not any("<" in (image["src"] or "") for image in page.images)


def test_the_report_has_caveats_about_its_figures(first: RetrainingRecord) -> None:
    assert first.winner is not None

    def words(**changes: object) -> str:
        assert first.winner is not None
        result = first.winner.result.model_copy(update=changes)
        return " ".join(summary(replace(first, winner=replace(first.winner, result=result))))

    assert "There are no masks of the defects" not in words()
    no_masks = {"image_auroc": 0.9, "recall": 1.0, "false_alarm_rate": 0.0}
    assert "There are no masks of the defects" in words(metrics=no_masks)
    assert "Synthetic anomalies" in words(synthetic=True)
    outside = words(outside_region=("test/scratch/003.png",))
    assert "outside the region of interest: 1 (test/scratch/003.png)" in outside
    assert "intervals are too narrow" not in words()
    several = {"item 1": GroupResult(images=2, rejected=1)}
    assert "intervals are too narrow" in words(anomalies_by_group=several)
    assert "There is no test/good" in words(test_normals_from="validation")
    more = {"false_alarm_rate": (0.2, 0.6)}
    assert "more than was promised" in words(intervals=more)
    assert "more than was promised" not in words()
    deleted = replace(first, winner=replace(first.winner, version=None))
    assert "its version was deleted later" in page_of(deleted).words


def test_the_outcome_of_the_checks_is_stored_with_the_retraining(plate: RetrainedPlate) -> None:
    found = replace(
        SOUND,
        failures=(Failure("blur", "warning", "train/good/\udcff.png", "sharp", "blurred"),),
        outcomes=(CheckOutcome("blur", "Blurred", "Focus.", "warning", "failed", 1, True),),
    )
    run = plate.begin(BLIND, validation=found)
    record = read_retraining(plate.tracking, run)
    assert record.validation == found
    page = page_of(record)
    assert "plate: the retraining has not ended" in page.words
    assert "Blurred 1 warning Focus." in page.words
    finish_retraining_run(plate.settings, run)


def test_a_report_is_written_for_a_version_or_the_newest_retraining(
    plate: RetrainedPlate, first: RetrainingRecord, second: RetrainingRecord, tmp_path: Path
) -> None:
    page = tmp_path / "plate.html"
    write_report("plate", page, version=1, settings=plate.settings)
    assert "patchcore registered as version 1" in page.read_text(encoding="utf-8")
    assert find_retraining(plate.tracking, "plate", 2) == second.run_id
    for version, said in ((7, "has no version 7"), (None, "did you mean 'plate'")):
        category = "plate" if version else "plato"
        with pytest.raises(TrackingError, match=said):
            write_report(category, page, version=version, settings=plate.settings)
    assert plate.tracking.categories() == ["plate"], "asking makes no category"
    with pytest.raises(StorageError, match="cannot be written"):
        write_report("plate", page / "below.html", version=None, settings=plate.settings)
    assert list(tmp_path.iterdir()) == [page]


def test_a_report_includes_no_other_file_of_the_machine(
    plate: RetrainedPlate, first: RetrainingRecord, tmp_path: Path
) -> None:
    assert first.winner is not None
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    index = [one.model_dump(mode="json") for one in first.winner.images[:1]]
    index[0]["image"] = str(tmp_path / "secret.txt")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "gallery.json").write_text(json.dumps(index), encoding="utf-8")
    run_id = plate.tracking.start_run("plate", "tampered", {})
    plate.tracking.log_folder(run_id, tmp_path / "made", GALLERY)
    with pytest.raises(TrackingError, match="damaged"):
        read_shown_images(plate.tracking, run_id)
