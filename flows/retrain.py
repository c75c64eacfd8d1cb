"""The main job as a Prefect flow of this process, as the command line runs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, runtime, tags
from prefect.client.schemas import State

from stillwatch.errors import ServerError
from stillwatch.flows.retraining import requested, retrain_categories
from stillwatch.flows.run_report import RetrainReport
from stillwatch.flows.servers.automations import TAG
from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.settings import Settings, load_settings


def run_name() -> str:
    """``retrain`` and the categories, for the flow run that this is called in."""
    parameters: Mapping[str, Any] = runtime.flow_run.parameters
    return "retrain " + (", ".join(parameters["categories"] or []) or "all")


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    params: Path,
    root: Path | None,
    categories: list[str] | None,
    detectors: list[str] | None,
    seeds: list[int] | None,
    force: bool,
) -> State[RetrainReport]:
    """Retrain every category whose images, split or settings changed, and register the winners.

    Args:
        params: the settings file.
        root: an image set outside the workspace, which is imported; none: the settings' own.
        categories: which to retrain; none: all of them.
        detectors: which methods compete; none: ``retrain.detectors`` of the settings.
        seeds: with which each detector is trained, the one for production first; none:
            ``training.seed`` of the settings.
        force: train even what MLflow holds already.
    """
    request = requested(load_settings(params), detectors, seeds)
    return retrain_categories(request, root=root, categories=categories, force=force)


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

    Raises:
        StillwatchError: what stopped the whole retraining, before any category.
    """
    requested(settings, detectors, seeds)  # what is wrong with these needs no server to be said
    with prefect_api(settings), tags(TAG):
        state = retrain(
            params=params.resolve(),
            root=None if root is None else root.resolve(),
            categories=categories,
            detectors=detectors,
            seeds=seeds,
            force=force,
            return_state=True,
        )
        outcome = state.result(raise_on_failure=False)
        if isinstance(outcome, RetrainReport):
            return outcome
        if isinstance(outcome, BaseException):
            raise outcome
    raise ServerError(f"the flow run ended {state.name} and left no report: {state.message}.")
