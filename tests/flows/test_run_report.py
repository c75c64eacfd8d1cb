import pytest
from tests.tasks.made_results import result

from stillwatch.flows.run_report import (
    CategoryReport,
    RetrainReport,
    category_report,
    prefect_rows,
    seeds_sentence,
    terminal_rows,
)
from stillwatch.tasks.evaluation.winner import Choice
from stillwatch.tasks.promotion.gate import JudgedVersion
from stillwatch.tasks.registry.judgement import Judgement
from stillwatch.tasks.registry.register import Registration
from stillwatch.tasks.registry.versions import RegisteredVersion
from stillwatch.tasks.training.candidates import list_candidates


@pytest.fixture
def report() -> RetrainReport:
    """Two detectors with two seeds, of which stfpm won, beside a category that failed."""
    figures = {"stfpm": (0.9, 0.8), "patchcore": (0.7, 0.7)}
    results = {
        one: result(
            one.detector,
            run_id=f"{one.detector}-{one.seed}",
            metrics={
                "image_auroc": figures[one.detector][one.seed],
                "false_alarm_rate": 0.05,
                "recall": figures[one.detector][one.seed],
            },
            reused=one.seed == 1,
        )
        for one in list_candidates(figures, (0, 1))
    }
    winner = next(one for one in results.values() if one.run_id == "stfpm-0")
    choice = Choice(winner, tuple(results.values()))
    version = RegisteredVersion(
        name="stillwatch-plate",
        version=3,
        aliases=("challenger",),
        detector="stfpm",
        image_auroc=0.9,
        synthetic=False,
        selected=choice.selected,
        data_version="d.dir",
        created="2026-01-01T00:00:00+00:00",
        run_id=winner.run_id,
        gate="open: not_enough_evidence (champion then: version 2)",
        approval="pending",
        not_promoted="a person decides",
    )
    failed = CategoryReport(status="failed", reason="cloth: no images.")
    split = {"a": "train", "b": "train", "c": "validation", "d": "calibration"}
    registration = Registration(version=3, created=True)
    judgement = Judgement(
        version=3,
        evaluation="e",
        compared_with=2,
        answer="not_enough_evidence",
        comparison="too few images",
        missed_floors="",
    )
    judged = JudgedVersion(version, judgement)
    plate = category_report(results, choice, registration, judged, split)
    return RetrainReport(data_version="d.dir", categories={"plate": plate, "cloth": failed})


def test_the_report_keeps_the_result_of_each_seed(report: RetrainReport) -> None:
    read = RetrainReport.model_validate_json(report.model_dump_json())
    stfpm = read.categories["plate"].detectors["stfpm"]
    assert [(seed, one.run_id) for seed, one in stfpm.items()] == [(0, "stfpm-0"), (1, "stfpm-1")]
    assert read == report
    assert report.failed == {"cloth": "cloth: no images."}


def test_the_terminal_shows_means_over_the_seeds(report: RetrainReport) -> None:
    stfpm, patchcore = terminal_rows(report)
    assert stfpm == {
        "category": "plate",
        "detector": "stfpm",
        "image AUROC": "0.850 ± 0.050",
        "AUPRO": "–",
        "false alarms": "0.050 ± 0.000",
        "recall": "0.850 ± 0.050",
        "time": "1 s",
        "model": "v3 challenger",
    }
    assert (patchcore["image AUROC"], patchcore["model"]) == ("0.700 ± 0.000", "")
    assert "seeds 0, 1" in seeds_sentence(report)


def test_prefects_table_says_what_each_detector_finds_and_links_its_run(
    report: RetrainReport,
) -> None:
    failed, stfpm, patchcore = prefect_rows(report, "http://mlflow")
    assert failed == {"category": "cloth", "outcome": "cloth: no images."}
    assert stfpm == {
        "category": "plate",
        "outcome": "registered v3 challenger, waits for approval",
        "detector": "stfpm",
        "finds": "16 to 18 of 20",
        "image AUROC": "0.850 ± 0.050",
        "false alarms": "0.050 ± 0.000",
        "MLflow run": "http://mlflow/#/runs/stfpm-0?workflowType=machine_learning",
    }
    assert (patchcore["outcome"], patchcore["finds"]) == ("not chosen", "14 of 20")


def test_figures_from_synthetic_anomalies_are_marked(report: RetrainReport) -> None:
    plate = report.categories["plate"]
    figures = {"image_auroc": 0.9, "false_alarm_rate": 0.1, "recall": 0.9}
    detectors = {
        "stfpm": {0: result(synthetic=True, metrics=figures)},
        "patchcore": {0: result(anomalies=0, metrics={"false_alarm_rate": 0.1})},
    }
    plate = plate.model_copy(update={"detectors": detectors})
    made = RetrainReport(data_version=None, categories={"plate": plate})
    row = terminal_rows(made)[0]
    assert (row["image AUROC"], row["false alarms"]) == ("0.900 synthetic", "0.100")
    assert [one["finds"] for one in prefect_rows(made, "")] == ["18 of 20 synthetic", "–"]
