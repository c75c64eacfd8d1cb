"""MLflow: where runs are kept, found again and read back.

Everything goes through one client with an explicit address and explicit run ids, never through
MLflow's process-wide "current" store, experiment or run, so that it works from any thread and
process.
"""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import Timeout as RequestsTimeout
from sqlalchemy.exc import SQLAlchemyError

from stillwatch.errors import TrackingError
from stillwatch.files import storage_errors
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import HOST, may_be_alive, os_user, owner_tags
from stillwatch.tasks.tracking.entries import DataSource
from stillwatch.tasks.tracking.mlflow_pages import every_page
from stillwatch.tasks.tracking.s3_errors import s3_errors

Status = Literal["FINISHED", "FAILED", "KILLED"]

FINGERPRINT = "stillwatch.fingerprint"
EVALUATION = "stillwatch.evaluation"
METHOD, SEED = "stillwatch.method", "stillwatch.seed"
"""Which detector a run trains, and with which seed."""
STAGE = "stillwatch.stage"
PARENT = "mlflow.parentRunId"
KIND = "stillwatch.kind"
"""What a run is that trains no detector itself."""
REASON = "stillwatch.reason"
"""Why a run failed."""
TRAINED, EVALUATED = "trained", "evaluated"
BUNDLE = "bundle"
"""Where a run keeps its bundle among its artifacts."""

_MOST_METRICS, _MOST_PARAMS, _MOST_TAGS = 1000, 100, 100
_LONGEST_VALUE = 5000
_REFUSED_BY_DATABASE = "BAD_REQUEST"
"""MLflow's name for what breaks a rule of its tables."""

# A dead server is worth three tries, not the library's four minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("urllib3").setLevel(logging.ERROR)


class Tracking:
    """One MLflow store."""

    def __init__(self, uri: str, artifacts: str | None, locks: Path) -> None:
        """Name a store; nothing is contacted yet.

        Args:
            uri: the tracking address.
            artifacts: URI under which new experiments keep their files; None: the server decides.
            locks: folder for the lock by which runs of this process are known to have an owner.
        """
        self.uri = uri
        self.artifacts = artifacts
        self.locks = locks

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for this store; call it inside ``errors``."""
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @property
    def local_files(self) -> bool:
        """Whether new experiments keep their files in a folder, which needs no copy to be read."""
        return self.artifacts is not None and self.artifacts.startswith("file:")

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn every way in which MLflow says no into one sentence.

        Raises:
            TrackingError: naming the store, what was being done and what to do.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            raise TrackingError(
                f"MLflow at {self.uri} could not {doing} ({error}). The extra postgres is for "
                "PostgreSQL, the extra s3 for an S3 store: pip install 'stillwatch[postgres,s3]'."
            ) from error
        except (MlflowException, SQLAlchemyError, OSError, *s3_errors()) as error:
            remedy = (
                "Check that the server is up and that tracking.uri in params.yaml names it, and, "
                "where it asks for a password, that MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD are set"
                if self.artifacts is None
                else "Check that it can be reached and written to and that its disk is not full"
            )
            raise TrackingError(
                f"MLflow at {self.uri} could not {doing}: {_reason(error)}. {remedy}, then run "
                "again: what was trained is kept and is not trained again."
            ) from error

    def check(self) -> None:
        """Contact the store, whose tables MLflow makes if they are not there.

        Raises:
            TrackingError: the store does not answer.
        """
        with self.errors("be opened"):
            self.client.search_experiments(max_results=1)

    def experiment(self, category: str) -> str:
        """Id of the category's experiment, made if it is not there.

        Raises:
            TrackingError: the store does not answer, or somebody deleted the experiment.
        """
        name = experiment_name(category)
        with self.errors(f"open the experiment {name}"):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                return self._create_experiment(name)
            if found.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"the experiment {name} at {self.uri} was deleted. Restore it with "
                    f"'mlflow experiments restore -x {found.experiment_id}', or remove it for "
                    "good with 'mlflow gc'."
                )
            return str(found.experiment_id)

    def start_run(
        self, category: str, name: str, tags: Mapping[str, str], parent: str | None = None
    ) -> str:
        """Begin a run in the category's experiment and return its id.

        Raises:
            TrackingError: the store does not answer.
        """
        experiment = self.experiment(category)
        all_tags = {
            "mlflow.user": os_user(),
            "mlflow.source.name": "stillwatch",
            **owner_tags(self.locks),
            **({PARENT: parent} if parent else {}),
            **tags,
        }
        with self.errors("start a run"):
            run = self.client.create_run(
                experiment, run_name=name, tags={k: _shortened(v) for k, v in all_tags.items()}
            )
        return str(run.info.run_id)

    def end_run(self, run_id: str, status: Status) -> None:
        """Say how a run ended.

        Raises:
            TrackingError: the store does not answer.
        """
        with self.errors("end a run"):
            self.client.set_terminated(run_id, status)

    def fail_run(self, run_id: str, reason: BaseException | str) -> None:
        """End a run as failed, or as killed if ``reason`` is an interruption, and say why.

        Raises:
            TrackingError: the store does not answer.
        """
        killed = isinstance(reason, BaseException) and not isinstance(reason, Exception)
        self.log(run_id, tags={REASON: str(reason) or type(reason).__name__})
        self.end_run(run_id, "KILLED" if killed else "FAILED")

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> None:
        """Log in as few requests as MLflow's limits allow.

        Raises:
            TrackingError: the store does not answer or refuses a name.
        """
        all_params = [Param(k, _shortened(v)) for k, v in (params or {}).items()]
        all_tags = [RunTag(k, _shortened(v)) for k, v in (tags or {}).items()]
        with self.errors("log to a run"):
            client = self.client
            # MLflow takes at most so many of each kind in one request.
            while metrics or all_params or all_tags:
                client.log_batch(
                    run_id,
                    metrics=metrics[:_MOST_METRICS],
                    params=all_params[:_MOST_PARAMS],
                    tags=all_tags[:_MOST_TAGS],
                )
                metrics = metrics[_MOST_METRICS:]
                all_params, all_tags = all_params[_MOST_PARAMS:], all_tags[_MOST_TAGS:]

    def log_data(self, run_id: str, data: DataSource) -> None:
        """Record what a run was trained on: identity and origin, no image is read.

        Raises:
            TrackingError: the store does not answer.
        """
        inputs = [data.as_input()]
        with self.errors("log the data version"):
            try:
                self.client.log_inputs(run_id, datasets=inputs)
            except MlflowException as error:
                if error.error_code != _REFUSED_BY_DATABASE:
                    raise
                # Another run inserted the same data between MLflow's look and its insert.
                self.client.log_inputs(run_id, datasets=inputs)

    def log_folder(self, run_id: str, folder: Path, path: str | None = None) -> None:
        """Upload the contents of ``folder`` under ``path`` of the run's artifacts.

        Raises:
            TrackingError: the store does not answer or cannot be written.
        """
        with self.errors(f"store {path or 'the evidence'}"):
            self.client.log_artifacts(run_id, str(folder), path)

    @contextmanager
    def artifact(self, run_id: str, path: str) -> Iterator[Path]:
        """Yield a copy of one artifact, file or folder, for the time of the block.

        Raises:
            TrackingError: there is no such artifact, or the store does not answer.
        """
        with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
            with self.errors(f"hand out {path} of run {run_id}"):
                where = Path(self.client.download_artifacts(run_id, path, folder))
            yield where

    def artifact_names(self, run_id: str) -> frozenset[str]:
        """The files and folders at the top of a run's artifacts.

        Raises:
            TrackingError: no such run, or the store does not answer.
        """
        with self.errors(f"list the artifacts of run {run_id}"):
            return frozenset(item.path for item in self.client.list_artifacts(run_id))

    def categories(self) -> list[str]:
        """The categories that have an experiment, sorted.

        Raises:
            TrackingError: the store does not answer.
        """
        return sorted(self.categories_by_experiment().values())

    def categories_by_experiment(self) -> dict[str, str]:
        """The same by the experiment's id.

        Raises:
            TrackingError: the store does not answer.
        """
        prefix = experiment_name("")
        with self.errors("list the experiments"):
            found = every_page(
                self.client.search_experiments, filter_string=f"name LIKE '{prefix}%'"
            )
        return {one.experiment_id: one.name.removeprefix(prefix) for one in found}

    def find_runs(
        self, category: str, tags: Mapping[str, str], params: Mapping[str, str] | None = None
    ) -> list[Run]:
        """The runs of the category that carry all these, newest first, whatever their status.

        Raises:
            TrackingError: the store does not answer.
        """
        wanted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        wanted += [f"params.`{key}` = '{value}'" for key, value in (params or {}).items()]
        experiment = self.experiment(category)
        with self.errors("search its runs"):
            return every_page(
                self.client.search_runs,
                experiment_ids=[experiment],
                filter_string=" and ".join(wanted),
                order_by=["attributes.start_time DESC"],
            )

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run.

        Raises:
            TrackingError: no such run, or the store does not answer.
        """
        with self.errors(f"read run {run_id}"):
            return dict(self.client.get_run(run_id).data.tags)

    def close_dead_runs(self, category: str) -> int:
        """Mark the running runs of dead processes of this host as killed.

        Raises:
            TrackingError: the store does not answer.
        """
        experiment = self.experiment(category)
        here = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{socket.gethostname()}'"
        with self.errors("search its runs"):
            running = every_page(
                self.client.search_runs, experiment_ids=[experiment], filter_string=here
            )
            dead = [run for run in running if not may_be_alive(run.data.tags)]
            for run in dead:
                self.client.set_terminated(run.info.run_id, "KILLED")
        return len(dead)

    def _create_experiment(self, name: str) -> str:
        location = None
        if self.artifacts is not None:
            location = f"{self.artifacts}/{name}"
        try:
            return str(
                self.client.create_experiment(
                    name,
                    artifact_location=location,
                    # Or else MLflow's pages open on their views for language models.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            )
        except MlflowException:
            # Another process may have made it in the meantime.
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)


def open_tracking(settings: Settings) -> Tracking:
    """The MLflow store of ``settings``; a local one is made if it is not there.

    Raises:
        TrackingError: the store does not answer.
        StorageError: the state folder cannot be written to.
    """
    tracking = Tracking(
        tracking_uri(settings), artifact_uri(settings), settings.state_dir / "locks"
    )
    if settings.tracking.s3_endpoint is not None:
        # MLflow has no other way to be told, nor have the processes that this one starts.
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = settings.tracking.s3_endpoint
    if settings.tracking.server is not None:
        tracking.check()
        return tracking
    folder = mlflow_folder(settings)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # MLflow makes the tables of a new store on first contact, and fails if two processes do.
    with tracking.errors("be opened"), FileLock(folder / "open.lock"):
        tracking.check()
    return tracking


def tracking_uri(settings: Settings) -> str:
    """The address of the store: the setting, else SQLite in the state folder."""
    return settings.tracking.uri or f"sqlite:///{mlflow_folder(settings) / 'mlflow.db'}"


def mlflow_folder(settings: Settings) -> Path:
    """Where a local store keeps its database and artifacts."""
    return settings.state_dir.resolve() / "mlflow"


def artifact_uri(settings: Settings) -> str | None:
    """Where new experiments keep their files; None when a tracking server decides that itself."""
    if settings.tracking.server is not None:
        return None
    if settings.tracking.artifacts is not None:
        return settings.tracking.artifacts.rstrip("/")
    return (mlflow_folder(settings) / "artifacts").as_uri()


def _reason(error: BaseException) -> str:
    """The first line of what was raised, but for a server that is not there, which fills a page."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (RequestsConnectionError, RequestsTimeout)):
            return "no server answers there"
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else repr(error)


def experiment_name(category: str) -> str:
    """The name of a category's experiment."""
    return f"stillwatch/{category}"


def _shortened(value: object) -> str:
    return str(value)[:_LONGEST_VALUE]
