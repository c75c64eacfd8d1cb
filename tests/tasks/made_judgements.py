"""Manifests and folders as the checks judge them."""

from pathlib import Path
from typing import Any

from made_manifests import SETTINGS, read_manifest

from stillwatch.images.manifest import Manifest
from stillwatch.settings import CheckSettings
from stillwatch.tasks.validation.report import ValidationReport
from stillwatch.tasks.validation.task import validate_manifest

TRAIN, GOOD, DEFECT = "train/good/003.png", "test/good/001.png", "test/scratch/001.png"
"""Images of the category that ``make_category`` writes."""


def judge(manifest: Manifest, **checks: Any) -> ValidationReport:
    return validate_manifest(
        manifest, SETTINGS.model_copy(update={"checks": CheckSettings(**checks)})
    )


def judge_folder(folder: Path, recorded: dict[str, str] | None = None) -> ValidationReport:
    return judge(read_manifest(folder, recorded))


def found_in(report: ValidationReport) -> set[tuple[str, str, str | None]]:
    return {(failure.check, failure.severity, failure.path) for failure in report.failures}
