"""The main job: version, examine, validate, train, evaluate, register; category by category."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.artifacts import create_table_artifact
from prefect.client.schemas import State
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.image_sets import chosen_categories, place_of
from flows.mlflow_server import pages_address
from flows.prefect_server import prefect_api
from flows.report import CategoryReport, RetrainReport
from flows.summary import category_report, failure_sentence, full_rows
from stillwatch.detectors import detector_settings
from stillwatch.errors import ServerError, StillwatchError, TrackingError, TrainingError
from stillwatch.settings import Settings, load_settings
from tasks.detector_result import DetectorResult
from tasks.evaluate import evaluate_task
from tasks.examine import ExaminedCategory, examine
from tasks.register import Registration, register_task
from tasks.retraining_run import finish_retraining_run, start_retraining_run
from tasks.train import TrainedDetector, train_task
from tasks.validate import page_path, validate
from tasks.validation_report import ValidationReport
from tasks.version import DataVersion, version

_OVERLAP = 1
"""Tasks beside the trainings: one category is examined or evaluated while another is trained."""


def _run_name() -> str:
    parameters: Mapping[str, Any] = runtime.flow_run.parameters
    return "retrain " + (", ".join(parameters["categories"] or []) or "all")


@flow(name="retrain", flow_run_name=_run_name)
def retrain(
    params: Path = Path("params.yaml"),
    root: Path | None = None,
    categories: list[str] | None = None,
    detectors: list[str] | None = None,
    seed: int | None = None,
    force: bool = False,
) -> State[RetrainReport]:
    """Retrain every category whose images, split or settings changed, and register the winners.

    Categories are independent: one that fails stops no other. The run ends Failed, with one
    sentence per failed category, if there was any; what it did is in the state's data either way.

    Args:
        params: the settings file.
        root: an image set outside the workspace, which is imported; none: the settings' own.
        categories: which to retrain; none: all of them.
        detectors: which methods compete; none: ``retrain.detectors`` of the settings.
        seed: instead of ``training.seed``.
        force: train even what MLflow holds already.
    """
    settings = _requested(load_settings(params), detectors, seed)
    place = place_of(settings, root)
    data = version(
        place.workspace,
        split=settings.split,
        smallest_alpha=settings.calibration.alpha_reject,
        root=place.imported_from,
        categories=categories,
    )
    report = _Retraining(settings, data, chosen_categories(data, categories), force=force).run()
    create_table_artifact(
        table=full_rows(report, pages_address(settings.tracking)),
        key="retraining",
        description=f"Retraining on {data.name} ({data.dir_hash})",
    )
    if report.failed:
        return Failed(message=failure_sentence(report), data=report)
    return Completed(message=f"{len(report.categories)} categories are up to date", data=report)


def run_retraining(
    settings: Settings,
    *,
    params: Path,
    root: Path | None = None,
    categories: list[str] | None = None,
    detectors: list[str] | None = None,
    seed: int | None = None,
    force: bool = False,
) -> RetrainReport:
    """Run the flow against the configured Prefect server, or a local one, and return its report.

    Raises:
        StillwatchError: what stopped the whole retraining, before any category.
    """
    with prefect_api(settings.state_dir):
        state = retrain.with_options(task_runner=_task_runner(settings))(
            params=params.resolve(),
            root=None if root is None else root.resolve(),
            categories=categories,
            detectors=detectors,
            seed=seed,
            force=force,
            return_state=True,
        )
        outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, RetrainReport):
        return outcome
    if isinstance(outcome, BaseException):
        raise outcome
    raise ServerError(f"the flow run ended {state.name} and left no report: {state.message}.")


def _task_runner(settings: Settings) -> TaskRunner[Any]:
    workers = settings.runtime.parallel_trainings + _OVERLAP
    if settings.runtime.task_runner == "process":
        return ProcessPoolTaskRunner(max_workers=workers)
    return ThreadPoolTaskRunner(max_workers=workers)


def _requested(settings: Settings, detectors: list[str] | None, seed: int | None) -> Settings:
    """The settings with what was asked for this once; detectors and their settings are checked."""
    training, retraining = settings.training, settings.retrain
    if seed is not None:
        training = training.model_copy(update={"seed": seed})
    if detectors:
        retraining = retraining.model_copy(update={"detectors": tuple(detectors)})
    for name in {*retraining.detectors, *settings.detectors}:
        detector_settings(name, settings)
    return settings.model_copy(update={"training": training, "retrain": retraining})


@dataclass
class _Competition:
    """The detectors of one category that are being trained and evaluated."""

    examined: ExaminedCategory
    parent_run: str
    trained: dict[str, PrefectFuture[TrainedDetector]]
    evaluated: dict[str, PrefectFuture[DetectorResult]]

    def results(self) -> dict[str, DetectorResult]:
        """Wait for all of them.

        Raises:
            TrainingError: at least one failed; the sentence names each.
        """
        futures: list[PrefectFuture[Any]] = [*self.trained.values(), *self.evaluated.values()]
        wait(futures)
        results, failed = {}, []
        for detector, future in self.evaluated.items():
            try:
                self.trained[detector].result()
                results[detector] = future.result()
            except Exception as error:
                failed.append(f"{detector}: {_sentence(error)}")
        if failed:
            raise TrainingError("; ".join(failed))
        return results


@dataclass
class _Retraining:
    """All categories step by step; one that fails is put aside with its reason."""

    settings: Settings
    data: DataVersion
    names: Sequence[str]
    force: bool
    reports: dict[str, CategoryReport] = field(default_factory=dict)

    def run(self) -> RetrainReport:
        competitions = {}
        for name, examined in self._examined().items():
            with self._put_aside(name):
                competitions[name] = self._begin(examined)
        registering = {}
        for name, competition in competitions.items():
            with self._put_aside(name, competition.parent_run):
                results = competition.results()
                registering[name] = results, self._register(competition, results)
        for name, (results, future) in registering.items():
            with self._put_aside(name, competitions[name].parent_run):
                registration: Registration = future.result()
                finish_retraining_run(self.settings, competitions[name].parent_run)
                self.reports[name] = category_report(results, registration)
        return RetrainReport(
            data_version=self.data.dir_hash,
            categories={name: self.reports[name] for name in self.names},
        )

    def _examined(self) -> dict[str, ExaminedCategory]:
        """The categories that passed validation."""
        examining = {
            name: examine.submit(
                self.data.categories[name], root=self.data.root, settings=self.settings
            )
            for name in self.names
        }
        validating = {}
        for name, future in examining.items():
            with self._put_aside(name):
                examined: ExaminedCategory = future.result()
                validating[name] = examined, self._validate(examined)
        sound = {}
        for name, (examined, verdict) in validating.items():
            with self._put_aside(name):
                verdict.result().raise_if_failed()
                sound[name] = examined
        return sound

    def _validate(self, examined: ExaminedCategory) -> PrefectFuture[ValidationReport]:
        return validate.submit(
            examined.manifest,
            folder=examined.folder,
            page=page_path(self.settings.state_dir, examined.version.name),
            checks=self.settings.checks,
            calibration=self.settings.calibration,
            data_version=self.data.name,
        )

    def _begin(self, examined: ExaminedCategory) -> _Competition:
        parent_run = start_retraining_run(examined.version, self.data, self.settings)
        competition = _Competition(examined, parent_run, {}, {})
        for detector in self.settings.retrain.detectors:
            trained = train_task.submit(
                examined,
                detector,
                data=self.data,
                settings=self.settings,
                parent_run=parent_run,
                force=self.force,
            )
            competition.trained[detector] = trained
            # Prefect's types do not know that a future may stand for its result.
            competition.evaluated[detector] = evaluate_task.submit(  # type: ignore[call-overload]
                trained, examined, data=self.data, settings=self.settings
            )
        return competition

    def _register(
        self, competition: _Competition, results: Mapping[str, DetectorResult]
    ) -> PrefectFuture[Registration]:
        return register_task.submit(
            list(results.values()),
            competition.examined,
            settings=self.settings,
            parent_run=competition.parent_run,
        )

    @contextmanager
    def _put_aside(self, name: str, parent_run: str | None = None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            reason = _sentence(error)
            self.reports[name] = CategoryReport(status="failed", reason=reason)
            if parent_run is not None:
                with suppress(TrackingError):
                    finish_retraining_run(self.settings, parent_run, reason)


def _sentence(error: Exception) -> str:
    if isinstance(error, StillwatchError):
        return str(error)
    return f"{type(error).__name__}: {error} (unexpected: the Prefect run's log has the details)"
