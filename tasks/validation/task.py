"""Validate one category's images before training, as a Prefect task."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from stillwatch.images.manifest import Manifest
from stillwatch.settings import Settings
from stillwatch.tasks.html import Thumbnails
from stillwatch.tasks.libraries.artifact_keys import artifact_key
from stillwatch.tasks.validation.advice import advise
from stillwatch.tasks.validation.page import markdown_page, write_page
from stillwatch.tasks.validation.report import ValidationReport
from stillwatch.tasks.validation.statistics import category_statistics
from stillwatch.text import printable


@task(name="validate", task_run_name="validate {manifest.category}", cache_policy=NO_CACHE)
def validate(
    manifest: Manifest, *, folder: Path, settings: Settings, data_version: str
) -> ValidationReport:
    """``validate_images``, with two Prefect artifacts."""
    page = page_path(settings.state_dir, manifest.category)
    report = validate_images(
        manifest, folder=folder, page=page, settings=settings, data_version=data_version
    )
    thumbnails = Thumbnails.of(manifest, folder, settings)
    key = artifact_key("validation", manifest.category)
    create_table_artifact(table=table_rows(report), key=key, description=report.verdict())
    create_markdown_artifact(
        markdown=markdown_page(report, thumbnails, page=page, data_version=data_version),
        key=f"{key}-page",
        description=report.verdict(),
    )
    return report


def validate_images(
    manifest: Manifest, *, folder: Path, page: Path, settings: Settings, data_version: str
) -> ValidationReport:
    """Run all checks on a category's images and write the HTML page.

    Failures raise no error here; ``ValidationReport.raise_if_failed`` raises one.

    Args:
        manifest: facts of the category's images, ``part`` included.
        page: the HTML file.
    """
    report = validate_manifest(manifest, settings)
    thumbnails = Thumbnails.of(manifest, folder, settings)
    write_page(page, report, thumbnails, data_version=data_version)
    return report


def validate_manifest(manifest: Manifest, settings: Settings) -> ValidationReport:
    """Run all checks on a manifest."""
    # Great Expectations takes three seconds to import.
    from stillwatch.tasks.validation.checkpoint import build_report, manifest_frame, run_checkpoint
    from stillwatch.tasks.validation.suite import build_suite

    checks = settings.checks
    statistics = category_statistics(manifest, near_duplicate_ratio=checks.near_duplicate_ratio)
    advice = advise(manifest, settings)
    suite = build_suite(manifest, statistics, settings=settings, advice=advice)
    judgements = run_checkpoint(manifest_frame(manifest, statistics, advice), suite)
    return build_report(manifest, statistics, suite, judgements, advice)


def table_rows(report: ValidationReport) -> list[dict[str, str]]:
    """Rows of the table artifact, one per failure and per check that broke."""
    broken = [
        {
            "file": "",
            "check": "",
            "severity": "broke",
            "expected": "a check that runs",
            "found": said,
        }
        for said in report.errored
    ]
    return broken + [
        {
            "file": "" if failure.path is None else printable(failure.path),
            "check": failure.check,
            "severity": failure.severity,
            "expected": failure.expected,
            "found": failure.found,
        }
        for failure in report.failures
    ]


def page_path(state_dir: Path, category: str) -> Path:
    """The path of a category's validation page."""
    return state_dir / "validation" / f"{category}.html"
