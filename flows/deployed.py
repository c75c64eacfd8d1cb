"""What the deployments of ``prefect.yaml`` run: the forms of the Prefect UI over the jobs.

No form reaches beyond what the settings file, which the worker's environment names, says: it takes
no path but that of a folder in ``inspection.path``.
"""

import os
from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed
from pydantic import Field

from flows.folder_inspection import inspect_folder
from flows.ingest import ingest_images
from flows.report import RetrainReport
from flows.retrain import run_name
from flows.retraining import requested, retrain_categories
from flows.sole_process import ensure_sole_process
from flows.watch import score_reader, watch_champions
from flows.worker import PARAMS_VARIABLE
from stillwatch.detectors import detector_classes
from stillwatch.errors import PromotionError
from stillwatch.settings import Settings, load_settings
from tasks.promotion import approve_tagged
from tasks.promotion import promote as promote_version
from tasks.rollback import rollback as roll_back

DetectorName = Annotated[str, Field(json_schema_extra={"enum": sorted(detector_classes())})]


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    categories: tuple[str, ...] = (),
    detectors: tuple[DetectorName, ...] = (),
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (),
    force: bool = False,
) -> State[RetrainReport]:
    """Retrain every category whose images, split or settings changed, and register the winners.

    Args:
        categories: Product lines to retrain; no item for all of them.
        detectors: Methods that compete; none chosen for retrain.detectors of params.yaml.
        seeds: Each detector is trained with each of them, and the mean decides which detector wins;
            what is registered is that of the first. No item for training.seed of params.yaml.
        force: Train even what MLflow holds already.
    """
    request = requested(_settings(), detectors, seeds)
    return retrain_categories(request, root=None, categories=list(categories) or None, force=force)


@flow(name="ingest", flow_run_name="ingest")
def ingest() -> State[None]:
    """Take in the images that lie still in the inbox, and announce their categories."""
    return ingest_images(_settings())


@flow(name="inspect", flow_run_name="inspect {category}")
def inspect(category: str, folder: str = "") -> State[None]:
    """Inspect a folder of images with a category's champion.

    Args:
        category: The product line.
        folder: Inside inspection.path of params.yaml; empty for the one named like the category.
    """
    return inspect_folder(category, folder, _settings())


@flow(name="promote", flow_run_name="promote {category}")
def promote(category: str, approver: str, reason: str, version: int | None = None) -> State[None]:
    """Make a version that waits for approval the champion of its category.

    Args:
        category: The product line.
        approver: Your name, for the history; nobody checks it.
        reason: Why, for the history.
        version: Which one; None for the challenger.
    """
    record = promote_version(
        category, version=version, reason=reason, settings=_settings(), who=_named(approver)
    )
    return Completed(message=f"version {record.to_version} is the champion of {category}")


@flow(name="rollback", flow_run_name="rollback {category}")
def rollback(category: str, approver: str, reason: str, to: int | None = None) -> State[None]:
    """Make an earlier champion the champion again.

    Args:
        category: The product line.
        approver: Your name, for the history; nobody checks it.
        reason: Why, for the history.
        to: An earlier champion's version; None for the one before.
    """
    record = roll_back(category, to=to, reason=reason, settings=_settings(), who=_named(approver))
    return Completed(message=f"version {record.to_version} is the champion of {category} again")


@flow(name="approvals", flow_run_name="approvals")
def approvals() -> State[None]:
    """Promote the versions that somebody has tagged stillwatch.approval=approved in MLflow."""
    records = approve_tagged(_settings())
    promoted = ", ".join(f"{one.category} version {one.to_version}" for one in records)
    return Completed(message=f"promoted: {promoted or 'none'}")


@flow(name="watch", flow_run_name="watch")
def watch() -> State[None]:
    """Test the scores of every champion for drift, and announce an alarm once."""
    settings = _settings()
    with score_reader(settings) as read_scores:
        return watch_champions(settings, read_scores)


def _named(approver: str) -> str:
    if not approver.strip():
        raise PromotionError("approver is empty. Fill in your name: the history keeps it.")
    return f"{approver.strip()} (Prefect form, not authenticated)"


def _settings() -> Settings:
    """The settings, unless an earlier process still works on this flow run."""
    settings = load_settings(Path(os.environ.get(PARAMS_VARIABLE, "params.yaml")))
    ensure_sole_process(settings.state_dir)
    return settings
