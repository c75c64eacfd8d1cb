"""What the deployments of ``prefect.yaml`` run: the forms of the Prefect UI over the jobs.

No form takes a path: the settings file, which the worker's environment names, says where
everything is.
"""

import os
from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.client.schemas import State
from pydantic import Field

from flows.crash_recovery import give_up_after_crashes
from flows.ingest import ingest_images
from flows.report import RetrainReport
from flows.retrain import run_name
from flows.retraining import requested, retrain_categories
from flows.worker import PARAMS_VARIABLE
from stillwatch.detectors import detector_classes
from stillwatch.settings import Settings, load_settings

DetectorName = Annotated[str, Field(json_schema_extra={"enum": sorted(detector_classes())})]


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    categories: list[str] | None = None,
    detectors: list[DetectorName] | None = None,
    seed: Annotated[int, Field(ge=0)] | None = None,
    force: bool = False,
) -> State[RetrainReport]:
    """Retrain every category whose images, split or settings changed, and register the winners.

    Args:
        categories: Product lines to retrain; empty for all of them.
        detectors: Methods that compete; empty for retrain.detectors of params.yaml.
        seed: Instead of training.seed of params.yaml.
        force: Train even what MLflow holds already.
    """
    give_up_after_crashes()
    settings = requested(_settings(), detectors, seed)
    return retrain_categories(settings, root=None, categories=categories or None, force=force)


@flow(name="ingest", flow_run_name="ingest")
def ingest() -> State[None]:
    """Take in the images that lie still in the inbox, and announce their categories."""
    give_up_after_crashes()
    return ingest_images(_settings())


def _settings() -> Settings:
    return load_settings(Path(os.environ.get(PARAMS_VARIABLE, "params.yaml")))
