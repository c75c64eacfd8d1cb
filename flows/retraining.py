"""The steps of the flow ``retrain``: version, examine, validate, train, evaluate, register, judge.

Every step is a Prefect task of the current flow run.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas import State
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner

from stillwatch.detectors import detector_settings, parse_detector_settings
from stillwatch.errors import SettingsError, StillwatchError, TrackingError, TrainingError
from stillwatch.flows.image_sets import chosen_categories
from stillwatch.flows.run_report import (
    CategoryReport,
    RetrainReport,
    category_report,
    prefect_rows,
    seeds_sentence,
)
from stillwatch.flows.runners import detector_runner, task_runner
from stillwatch.flows.servers.mlflow_server import pages_address
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import ExaminedCategory, examine
from stillwatch.tasks.data.version import DataVersion, ensure_categories_exist, version
from stillwatch.tasks.data.workspace import place_of
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.task import evaluate_task
from stillwatch.tasks.evaluation.winner import Choice, choose_winner, ensure_one_may_win
from stillwatch.tasks.promotion.gate import JudgedVersion, judge_task
from stillwatch.tasks.registry.register import Registration, register_task
from stillwatch.tasks.reports.task import attach_report
from stillwatch.tasks.training.candidates import DetectorSeed, list_candidates
from stillwatch.tasks.training.retraining_run import finish_retraining_run, start_retraining_run
from stillwatch.tasks.training.task import TrainedDetector, train_task
from stillwatch.tasks.validation.report import ValidationReport
from stillwatch.tasks.validation.task import validate
from stillwatch.text import some_of

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """The settings of one retraining, and what a person chose for this retraining alone."""

    settings: Settings
    """Of all categories."""
    detectors: tuple[str, ...] = ()
    """Which compete; none: ``retrain.detectors`` of each category."""
    seeds: tuple[int, ...] = ()
    """Each detector is trained with each seed; none: ``training.seed`` of each category."""

    def of_category(self, name: str) -> Settings:
        """The settings of one category in this retraining.

        What a person chose for this retraining comes before ``categories.NAME`` of the settings,
        which comes before the other sections.
        """
        own = self.settings.for_category(name)
        seed = self.seeds[0] if self.seeds else own.training.seed
        detectors = self.detectors or own.retrain.detectors
        changed = {
            "training": own.training.model_copy(update={"seed": seed}),
            "retrain": own.retrain.model_copy(update={"detectors": detectors}),
        }
        return own.model_copy(update=changed)


def retrain_categories(
    request: Request, *, root: Path | None, categories: list[str] | None, force: bool
) -> State[RetrainReport]:
    """Retrain the categories and put a table of the outcome into Prefect.

    Categories are independent: a category that fails stops no other. If a category failed, the
    state is Failed, with a sentence for each; the data of the state is the report in either case.

    Args:
        request: as ``requested`` gives it.
        root: an image set outside the workspace, which is imported; None: the settings' own.
        categories: which to retrain; None: all of them.
        force: train even what MLflow holds already.
    """
    settings = request.settings
    place = place_of(settings, root)
    ensure_categories_exist(settings, place.images)
    data = version(place.workspace, settings, root=place.imported_from, categories=categories)
    names = chosen_categories(data, categories)
    own = {name: request.of_category(name) for name in names}
    with task_runner(settings) as runner, detector_runner(settings, runner) as detectors:
        report = _Retraining(request, own, data, runner, detectors, force=force).run()
    about = f"Retraining on {data.name} ({data.dir_hash})"
    reading = seeds_sentence(report)
    create_table_artifact(
        table=prefect_rows(report, pages_address(settings)),
        key="retraining",
        description=f"{about}. {reading}" if reading else about,
    )
    if report.failed:
        sentences = (f"{name}: {reason}" for name, reason in report.failed.items())
        return Failed(message=" ".join(sentences), data=report)
    return Completed(message=f"up to date: {some_of(list(report.categories))}", data=report)


def requested(
    settings: Settings,
    detectors: Sequence[str] | None,
    seeds: Sequence[int] | None,
    categories: Sequence[str] | None = None,
) -> Request:
    """Check the detectors and seeds that a person chose, and the settings of each category.

    Args:
        detectors: which compete; None or empty: ``retrain.detectors`` of each category.
        seeds: with which each detector is trained, the one for production first; None or empty:
            ``training.seed`` of each category.
        categories: which are retrained; None or empty: all of them.

    Raises:
        DetectorError: there is no such detector.
        SettingsError: the settings of a detector are wrong, no detector may win, or a seed is given
            twice.
    """
    twice = [str(seed) for seed, times in Counter(seeds or ()).items() if times > 1]
    if twice:
        raise SettingsError(
            f"seed {', '.join(twice)} is given more than once. Give each seed once: the same seed "
            "trains the same detector."
        )
    request = Request(settings, tuple(detectors or ()), tuple(seeds or ()))
    # The empty name stands for every category that the settings do not name.
    for category in categories or ("", *settings.categories):
        try:
            _ensure_usable(request.of_category(category))
        except StillwatchError as error:
            if not category:
                raise
            raise SettingsError(f"{category}: {error}") from error
    return request


def _ensure_usable(settings: Settings) -> None:
    """Refuse settings of a category with which no training could start or no detector could win."""
    competing = settings.retrain.detectors
    # Wrong settings of a detector that does not compete now would stop a later retraining.
    for name, own in settings.detectors.items():
        if name not in competing:
            parse_detector_settings(name, own)
    for name in competing:
        detector_settings(name, settings)
    ensure_one_may_win(settings.retrain)


@dataclass
class _Competition:
    """The detectors of one category that are being trained and evaluated."""

    examined: ExaminedCategory
    parent_run: str
    trained: dict[DetectorSeed, PrefectFuture[TrainedDetector]]
    evaluated: dict[DetectorSeed, PrefectFuture[DetectorResult]]

    def results(self) -> dict[DetectorSeed, DetectorResult]:
        """Wait for all detectors and return their results.

        Raises:
            TrainingError: a detector failed; the sentence names each one that failed.
        """
        futures: list[PrefectFuture[Any]] = [*self.trained.values(), *self.evaluated.values()]
        wait(futures)
        results, failed = {}, []
        for candidate, future in self.evaluated.items():
            try:
                self.trained[candidate].result()
                results[candidate] = future.result()
            except Exception as error:
                failed.append(f"{candidate.name}: {_sentence(error)}")
        if failed:
            raise TrainingError("; ".join(failed))
        return results


@dataclass(frozen=True)
class _Decision:
    """The winner of a category, which is being registered and judged."""

    results: Mapping[DetectorSeed, DetectorResult]
    choice: Choice
    registration: PrefectFuture[Registration]
    judged: PrefectFuture[JudgedVersion]


@dataclass
class _Retraining:
    """The steps of all categories; a category that fails is left out of the later steps."""

    request: Request
    own: Mapping[str, Settings]
    """The settings of each category."""
    data: DataVersion
    runner: TaskRunner[Any]
    detectors: TaskRunner[Any]
    """For trainings and evaluations."""
    force: bool
    reports: dict[str, CategoryReport] = field(default_factory=dict)

    def run(self) -> RetrainReport:
        competitions = {}
        for name, (examined, validation) in self._examined().items():
            with self._failures_of(name):
                competitions[name] = self._train(examined, validation)
        decisions = {}
        for name, competition in competitions.items():
            with self._failures_of(name, competition.parent_run):
                decisions[name] = self._decide(competition, self.own[name])
        for name, decision in decisions.items():
            with self._failures_of(name, competitions[name].parent_run):
                registration = decision.registration.result()
                judged = decision.judged.result()
                finish_retraining_run(self.request.settings, competitions[name].parent_run)
                self.reports[name] = category_report(
                    decision.results,
                    decision.choice,
                    registration,
                    judged,
                    competitions[name].examined.version.assignment,
                )
        self._attach_reports({name: one.parent_run for name, one in competitions.items()})
        return RetrainReport(
            data_version=self.data.dir_hash,
            categories={name: self.reports[name] for name in self.own},
        )

    def _examined(self) -> dict[str, tuple[ExaminedCategory, ValidationReport]]:
        """The categories that passed validation, each with its validation report."""
        for name, reason in self.data.refused.items():
            self._fail(name, reason)
        examining = {
            name: self._submit(
                examine,
                version=self.data.categories[name],
                root=self.data.root,
                settings=own,
            )
            for name, own in self.own.items()
            if name not in self.data.refused
        }
        validating = {}
        for name, future in examining.items():
            with self._failures_of(name):
                examined: ExaminedCategory = future.result()
                verdict = self._submit(
                    validate,
                    manifest=examined.manifest,
                    folder=examined.folder,
                    settings=self.own[name],
                    data_version=self.data.name,
                )
                validating[name] = examined, verdict
        sound = {}
        for name, (examined, verdict) in validating.items():
            with self._failures_of(name):
                validation = verdict.result()
                validation.raise_if_failed()
                sound[name] = examined, validation
        return sound

    def _train(self, examined: ExaminedCategory, validation: ValidationReport) -> _Competition:
        own = self.own[examined.version.name]
        seeds = self.request.seeds or (own.training.seed,)
        parent_run = start_retraining_run(examined.version, self.data, validation, own, seeds)
        competition = _Competition(examined, parent_run, {}, {})
        # Otherwise the file lists of all categories would be sent to another process each time.
        data = replace(self.data, categories={examined.version.name: examined.version})
        for candidate in list_candidates(own.retrain.detectors, seeds):
            trained = self._submit(
                train_task,
                self.detectors,
                category=examined,
                candidate=candidate,
                data=data,
                settings=own,
                parent_run=parent_run,
                force=self.force,
            )
            competition.trained[candidate] = trained
            competition.evaluated[candidate] = self._submit(
                evaluate_task,
                self.detectors,
                trained=trained,
                category=examined,
                data=data,
                settings=own,
            )
        return competition

    def _decide(self, competition: _Competition, settings: Settings) -> _Decision:
        """Choose the winner, register it, and let the gate judge the registered version."""
        results = competition.results()
        choice = choose_winner(list(results.values()), settings.retrain)
        registration = self._submit(
            register_task,
            choice=choice,
            category=competition.examined,
            settings=settings,
            parent_run=competition.parent_run,
        )
        judged = self._submit(
            judge_task,
            registration=registration,
            choice=choice,
            category=competition.examined,
            settings=settings,
        )
        return _Decision(results, choice, registration, judged)

    def _attach_reports(self, runs: Mapping[str, str]) -> None:
        """Attach the HTML reports; a report that cannot be made changes no outcome."""
        settings = self.request.settings
        pages = pages_address(settings)
        futures = [
            self._submit(
                attach_report, category=name, run_id=run_id, pages=pages, settings=settings
            )
            for name, run_id in runs.items()
        ]
        wait(futures)

    def _submit(
        self, task: Task[..., Any], runner: TaskRunner[Any] | None = None, /, **parameters: Any
    ) -> PrefectFuture[Any]:
        """Start a task; its parameters may be futures of other tasks of the same runner."""
        future: PrefectFuture[Any] = (runner or self.runner).submit(task, parameters)
        return future

    @contextmanager
    def _failures_of(self, name: str, parent_run: str | None = None) -> Iterator[None]:
        """Record an error as the outcome of a category, and of its MLflow run if it has one."""
        try:
            yield
        except Exception as error:
            reason = _sentence(error)
            self._fail(name, reason)
            if parent_run is not None:
                with suppress(TrackingError):
                    finish_retraining_run(self.request.settings, parent_run, reason)

    def _fail(self, name: str, reason: str) -> None:
        # Said at once: if Prefect's server fails next, the flow's result is lost.
        _logger.warning("%s: %s", name, reason)
        self.reports[name] = CategoryReport(status="failed", reason=reason)


def _sentence(error: Exception) -> str:
    if isinstance(error, StillwatchError):
        return str(error)
    return f"{type(error).__name__}: {error} (unexpected: the Prefect run's log has the details)"
