"""Write a retraining's HTML report: to its MLflow run, or to a file."""

import json
import tempfile
from pathlib import Path
from urllib.parse import quote

from prefect import get_client, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from stillwatch.files import atomic_file
from stillwatch.settings import Settings
from stillwatch.tasks.libraries.artifact_keys import artifact_key
from stillwatch.tasks.registry.versions import model_name
from stillwatch.tasks.reports.approval import approval_page
from stillwatch.tasks.reports.decisions import waits
from stillwatch.tasks.reports.description import version_description
from stillwatch.tasks.reports.page import report_page
from stillwatch.tasks.reports.record import find_retraining, read_retraining
from stillwatch.tasks.reports.sentences import headline
from stillwatch.tasks.tracking.client import open_tracking
from stillwatch.tasks.tracking.pages import mlflow_page

REPORT_FILE = "report.html"


@task(name="report", task_run_name="report {category}", cache_policy=NO_CACHE)
def attach_report(category: str, run_id: str, *, pages: str, settings: Settings) -> None:
    """Add the report to a retraining's run and the state folder, with two pages in Prefect.

    The description of the version in MLflow gets the most important sentences and links.

    Args:
        pages: address of MLflow's pages.

    Raises:
        StillwatchError: as ``read_retraining``, or the state folder cannot be written to.
    """
    tracking = open_tracking(settings)
    record = read_retraining(tracking, run_id)
    page = report_page(record)
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
        (Path(folder) / REPORT_FILE).write_text(page, encoding="utf-8")
        tracking.log_folder(run_id, Path(folder))
    experiment = tracking.experiment(category)
    path = f"experiments/{experiment}/runs/{run_id}/artifacts/{REPORT_FILE}"
    link = mlflow_page(pages, path)
    create_link_artifact(
        link=link,
        link_text=f"Report of the retraining of {category}",
        key=artifact_key("report", category),
        description=headline(record),
    )
    winner = record.winner
    if winner is None or winner.version is None:
        return
    version = winner.version
    with atomic_file(report_file(settings.state_dir, category, version.number)) as temporary:
        temporary.write_text(page, encoding="utf-8")
    approval = None
    if version.approval == "pending":
        key = artifact_key("approval", category)
        create_markdown_artifact(
            markdown=approval_page(record, version, link, form=_form(category, version.number)),
            key=key,
            description=waits(category, version.number),
        )
        if prefect_pages := get_current_settings().ui_url:
            approval = f"{prefect_pages}/artifacts/key/{key}"
    # Relative: the server may move to another host or port.
    report = mlflow_page("", path).removeprefix("/")
    text = version_description(record, winner, report, approval=approval)
    name, number = model_name(category), str(version.number)
    with tracking.errors(f"describe version {number} of {name}"):
        tracking.client.update_model_version(name, number, text)


def _form(category: str, version: int) -> str | None:
    """Path of the form of the deployment ``promote``, filled in; None without the deployment."""
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name("promote/promote")
        except ObjectNotFound:
            return None
    filled_in = quote(json.dumps({"category": category, "version": version}))
    return f"/v2/deployments/deployment/{deployment.id}/run?parameters={filled_in}"


def report_file(state_dir: Path, category: str, version: int) -> Path:
    """The copy of the newest report of a version on the machine that wrote it."""
    return state_dir / "reports" / f"{category}-{version}.html"


def write_report(category: str, path: Path, *, version: int | None, settings: Settings) -> None:
    """Write the report of an earlier retraining from the present state of MLflow.

    Args:
        version: selects the newest retraining with this version; None: the newest of all.

    Raises:
        StillwatchError: as ``find_retraining`` and ``read_retraining``.
        StorageError: the file cannot be written.
    """
    tracking = open_tracking(settings)
    page = report_page(read_retraining(tracking, find_retraining(tracking, category, version)))
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
