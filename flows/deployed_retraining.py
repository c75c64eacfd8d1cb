"""The deployment ``retrain``."""

from typing import Annotated

from prefect import flow
from prefect.client.schemas import State
from pydantic import Field

from stillwatch.detectors import detector_classes
from stillwatch.flows.retrain import run_name
from stillwatch.flows.retraining import requested, retrain_categories
from stillwatch.flows.run_report import RetrainReport
from stillwatch.flows.run_settings import deployed_settings

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
    request = requested(deployed_settings(), detectors, seeds)
    return retrain_categories(request, root=None, categories=list(categories) or None, force=force)
