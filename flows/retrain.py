"""The flow ``retrain``: version, check, train, evaluate and register, category by category."""

import os
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, runtime, tags
from prefect.client.schemas import State
from pydantic import Field

from stillwatch.detectors import detector_classes
from stillwatch.errors import ServerError
from stillwatch.flows.retraining import requested, retrain_categories
from stillwatch.flows.run_report import RetrainReport
from stillwatch.flows.run_settings import run_settings
from stillwatch.flows.servers.automations import TAG
from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.flows.servers.worker import PARAMS_VARIABLE
from stillwatch.settings import Settings

DetectorName = Annotated[str, Field(json_schema_extra={"enum": sorted(detector_classes())})]

_root: ContextVar[Path | None] = ContextVar("root", default=None)
"""The image set of a run of the command line. No parameter of the flow, since the form of the
deployment would let anyone import any folder of the worker's machine."""


def _given_root() -> Path | None:
    # A process pool pickles the flow's function with the globals that it names, and no ContextVar
    # can be pickled.
    return _root.get()


def run_name() -> str:
    """``retrain`` and the categories, for the flow run that this is called in."""
    parameters: Mapping[str, Any] = runtime.flow_run.parameters
    return "retrain " + (", ".join(parameters["categories"]) or "all")


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
        detectors: Methods that compete in every category. If none is chosen, those of
            retrain.detectors in params.yaml, or of the same setting under categories.NAME.
        seeds: Each detector is trained with each of them, and the mean decides which detector wins;
            its model of the first seed is registered. If there is no item, training.seed in
            params.yaml, or the same setting under categories.NAME.
        force: Train even what MLflow holds already.
    """
    request = requested(run_settings(), detectors, seeds, categories)
    return retrain_categories(
        request, root=_given_root(), categories=list(categories) or None, force=force
    )


def run_retraining(
    settings: Settings,
    *,
    params: Path,
    root: Path | None = None,
    categories: list[str] | None = None,
    detectors: list[str] | None = None,
    seeds: list[int] | None = None,
    force: bool = False,
) -> RetrainReport:
    """Run the flow against the configured Prefect server, or a local one, and return its report.

    Args:
        params: the file of the settings.
        root: an image set outside the workspace, which is imported; None: the settings' own.
        categories: which to retrain; None: all of them.
        detectors: which methods compete, in all of these categories; None: ``retrain.detectors``
            of each category's settings.
        seeds: with which each detector is trained, the one for production first; None:
            ``training.seed`` of each category's settings.
        force: train even what MLflow holds already.

    Raises:
        StillwatchError: what stopped the whole retraining, before any category.
    """
    # Refuse what is wrong before a server is started.
    requested(settings, detectors, seeds, categories)
    os.environ[PARAMS_VARIABLE] = str(params.resolve())
    _root.set(None if root is None else root.resolve())
    with prefect_api(settings), tags(TAG):
        state = retrain(
            categories=tuple(categories or ()),
            detectors=tuple(detectors or ()),
            seeds=tuple(seeds or ()),
            force=force,
            return_state=True,
        )
        outcome = state.result(raise_on_failure=False)
        if isinstance(outcome, RetrainReport):
            return outcome
        if isinstance(outcome, BaseException):
            raise outcome
    raise ServerError(f"the flow run ended {state.name} and left no report: {state.message}.")
