"""What a retraining prints at its end."""

from pathlib import Path

import pytest
from tests.tasks.made_results import result

from stillwatch.flows.cli.outcome import print_outcome
from stillwatch.flows.run_report import CategoryReport, RetrainReport
from stillwatch.settings import ImageSettings, Settings
from stillwatch.tasks.reports.task import report_file

USELESS = {"image_auroc": 0.55, "recall": 0.0, "false_alarm_rate": 0.0}
GOOD = {"image_auroc": 0.99, "recall": 0.7, "false_alarm_rate": 1 / 15}


def printed(
    capsys: pytest.CaptureFixture[str], settings: Settings, figures: dict[str, float], **of: object
) -> str:
    """The text about the category screw, whose only detector has these figures."""
    one = result(normals=15, anomalies=20, reviewed_anomalies=5, metrics=figures, rate_95=0.146)
    values: dict[str, object] = {
        "status": "registered",
        "winner": "stfpm",
        "seed": 0,
        "model_version": 1,
        "selected": "selected on test (best of 1)",
        "images": {"train": 35, "validation": 6, "calibration": 19, "test": 35},
        "detectors": {"stfpm": {0: one}},
    }
    category = CategoryReport.model_validate(values | of)
    print_outcome(RetrainReport(data_version="d.dir", categories={"screw": category}), settings)
    text = " ".join(capsys.readouterr().out.split())
    return text[text.index("screw 35 learn") :]


def test_a_useless_detector_cannot_be_overlooked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(state_dir=tmp_path / ".stillwatch", images=ImageSettings(size=128))
    report = report_file(settings.state_dir, "screw", 1)
    report.parent.mkdir(parents=True)
    report.touch()
    why = "it is below its floor"
    waiting = {
        "alias": "challenger",
        "approval": "pending",
        "reason": why,
        "missed_floors": why,
    }
    assert printed(capsys, settings, USELESS, **waiting) == (
        "screw 35 learn · 6 watch · 19 calibrate · 35 test "
        "✗ not in production: finds 0 of 20 defects (5 go to review, 15 pass unseen); rejects 0 "
        "of 15 good test parts "
        "version: 1: stfpm, selected on test (best of 1) "
        "because: it is below its floor "
        "promise: of 100 new good parts about 5 are rejected (at most 14.6, with 95 % confidence) "
        "better: more good images (35 were learnt from), larger images (images.size is 128), a "
        "longer training "
        "report: .stillwatch/reports/screw-1.html "
        "next: stillwatch inspect screw --version 1 IMAGES "
        "approve: stillwatch promote screw --approve --reason '...' --despite '...' "
        "data version d.dir"
    )


def test_what_the_gate_does_not_miss_needs_no_despite(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The gate asks no floor of a version that is surely better than the champion."""
    text = printed(capsys, Settings(state_dir=tmp_path), USELESS, approval="pending")
    assert "approve: stillwatch promote screw --approve --reason '...' data version" in text


def test_a_champion_is_in_production(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = printed(capsys, Settings(state_dir=tmp_path), GOOD, alias="champion")
    assert "✓ in production: finds 14 of 20 defects (5 go to review, 1 passes unseen); " in text
    assert "rejects 1 of 15 good test parts" in text
    assert "better:" not in text
    assert "report: stillwatch report screw --version 1 --out report.html" in text
    assert "next: stillwatch inspect screw IMAGES data version" in text
