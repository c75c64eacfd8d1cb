"""The MLflow client: start, log to, find and read runs.

Every call names the store's address and the run's id. MLflow's process-wide "current" store,
experiment and run are never used, so the client works from any thread and process.

Every function of ``stillwatch.tasks`` that contacts MLflow raises ``TrackingError`` if the store
does not answer or does not have what is asked for: a run, an artifact, a version. A docstring names
the error again only where something else raises it, too.
"""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import Timeout as RequestsTimeout
from sqlalchemy.exc import SQLAlchemyError

from stillwatch.errors import TrackingError
from stillwatch.files import storage_errors
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import HOST, may_be_alive, os_user, owner_tags
from stillwatch.tasks.tracking.tags import PARENT, REASON

Status = Literal["FINISHED", "FAILED", "KILLED"]

BUNDLE = "bundle"
"""The folder of the bundle among a run's artifacts."""

_MOST_METRICS, _MOST_PARAMS, _MOST_TAGS = 1000, 100, 100
_LONGEST_VALUE = 5000
_MOST_RUN_IDS = 500
"""In one request: MLflow cannot parse a filter of some thousand words."""
_CONSTRAINT_VIOLATED = "BAD_REQUEST"
"""MLflow's error code for a write that violates a constraint of its database."""

# Three tries; MLflow's own defaults retry a dead server for four minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
logging.getLogger("urllib3").setLevel(logging.ERROR)
for _name in ("mlflow", "alembic", "sqlalchemy.engine", "huey"):
    # MLflow gives these loggers a handler for stderr, whatever the root logger has.
    logging.getLogger(_name).handlers.clear()
    logging.getLogger(_name).propagate = True
    logging.getLogger(_name).setLevel(logging.WARNING)


class Tracking:
    """One MLflow store."""

    def __init__(self, uri: str, artifacts: str | None, locks: Path) -> None:
        """Describe a store; the constructor contacts nothing.

        Args:
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
        """Whether new experiments keep their files in a local folder."""
        return self.artifacts is not None and self.artifacts.startswith("file:")

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Raise errors of MLflow, its database and its artifact store as ``TrackingError``.

        The message names the store, the failed operation and a remedy.

        Args:
            doing: the operation, as an infinitive without "to".
        """
        try:
            yield
        except ModuleNotFoundError as error:
            raise TrackingError(
                f"MLflow at {self.uri} could not {doing} ({error}). The extra postgres is for "
                "PostgreSQL, the extra s3 for an S3 store: pip install 'stillwatch[postgres,s3]'."
            ) from error
        except (MlflowException, SQLAlchemyError, OSError, *_s3_errors()) as error:
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
        """Contact the store; MLflow creates missing tables."""
        with self.errors("be opened"):
            self.client.search_experiments(max_results=1)

    def experiment(self, category: str) -> str:
        """Return the id of the category's experiment, which is created if it is missing.

        Raises:
            TrackingError: the experiment was deleted.
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
        """Start a run in the category's experiment and return its id."""
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
        """End a run with this status."""
        with self.errors("end a run"):
            self.client.set_terminated(run_id, status)

    def fail_run(self, run_id: str, reason: BaseException | str) -> None:
        """End a run as failed, or as killed after an interruption; the reason becomes a tag."""
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
        """Log metrics, parameters and tags in as few requests as MLflow's limits allow."""
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

    def log_data(self, run_id: str, data: DatasetInput) -> None:
        """Record the data that a run was trained on."""
        with self.errors("log the data version"):
            try:
                self.client.log_inputs(run_id, datasets=[data])
            except MlflowException as error:
                if error.error_code != _CONSTRAINT_VIOLATED:
                    raise
                # Another run inserted the same data between MLflow's query and its insert.
                self.client.log_inputs(run_id, datasets=[data])

    def log_folder(self, run_id: str, folder: Path, path: str | None = None) -> None:
        """Upload the contents of ``folder`` under ``path`` of the run's artifacts."""
        with self.errors(f"store {path or 'the evidence'}"):
            self.client.log_artifacts(run_id, str(folder), path)

    @contextmanager
    def artifact(self, run_id: str, path: str) -> Iterator[Path]:
        """Download an artifact, a file or a folder, and delete the copy at the end of the block."""
        with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
            with self.errors(f"download {path} of run {run_id}"):
                where = Path(self.client.download_artifacts(run_id, path, folder))
            yield where

    def artifact_names(self, run_id: str) -> frozenset[str]:
        """The files and folders at the top level of a run's artifacts."""
        with self.errors(f"list the artifacts of run {run_id}"):
            return frozenset(item.path for item in self.client.list_artifacts(run_id))

    def categories(self) -> list[str]:
        """The categories that have an experiment, sorted."""
        return sorted(self.categories_by_experiment().values())

    def categories_by_experiment(self) -> dict[str, str]:
        """Experiment id -> category, for all categories that have an experiment."""
        prefix = experiment_name("")
        with self.errors("list the experiments"):
            found = every_page(
                self.client.search_experiments, filter_string=f"name LIKE '{prefix}%'"
            )
        return {one.experiment_id: one.name.removeprefix(prefix) for one in found}

    def find_runs(
        self, category: str, tags: Mapping[str, str], params: Mapping[str, str] | None = None
    ) -> list[Run]:
        """The category's runs with all these tags and parameters, newest first, of any status."""
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

    def runs(self, run_ids: Collection[str]) -> dict[str, Run]:
        """Runs of any category by their ids, without deleted ones."""
        wanted = [f"'{run_id}'" for run_id in run_ids]
        experiments = list(self.categories_by_experiment())
        found: list[Run] = []
        with self.errors("search its runs"):
            for first in range(0, len(wanted), _MOST_RUN_IDS):
                ids = ", ".join(wanted[first : first + _MOST_RUN_IDS])
                found += every_page(
                    self.client.search_runs,
                    experiment_ids=experiments,
                    filter_string=f"attributes.run_id IN ({ids})",
                )
        return {run.info.run_id: run for run in found}

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        with self.errors(f"read run {run_id}"):
            return dict(self.client.get_run(run_id).data.tags)

    def close_dead_runs(self, category: str) -> int:
        """Mark as killed the running runs of dead processes of this host; return how many."""
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
        location = None if self.artifacts is None else f"{self.artifacts}/{name}"
        try:
            return str(
                self.client.create_experiment(
                    name,
                    artifact_location=location,
                    # Without this tag MLflow's pages open in the views for language models.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            )
        except MlflowException:
            # Another process may have created the experiment meanwhile.
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)


def open_tracking(settings: Settings) -> Tracking:
    """Open the MLflow store of ``settings``; a missing local one is created."""
    tracking = Tracking(
        tracking_uri(settings), artifact_uri(settings), settings.state_dir / "locks"
    )
    if settings.tracking.s3_endpoint is not None:
        # MLflow reads the endpoint from the environment only; child processes inherit it.
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = settings.tracking.s3_endpoint
    if settings.tracking.server is not None:
        tracking.check()
        return tracking
    folder = mlflow_folder(settings)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # MLflow creates the tables of a new store on first contact; two processes at once would fail.
    with tracking.errors("be opened"), FileLock(folder / "open.lock"):
        tracking.check()
    return tracking


def tracking_uri(settings: Settings) -> str:
    """The store's address: ``tracking.uri``, else a SQLite file in the state folder."""
    return settings.tracking.uri or f"sqlite:///{mlflow_folder(settings) / 'mlflow.db'}"


def mlflow_folder(settings: Settings) -> Path:
    """The folder of a local store's database and artifacts."""
    return settings.state_dir.resolve() / "mlflow"


def artifact_uri(settings: Settings) -> str | None:
    """URI under which new experiments keep their files; None: the tracking server decides."""
    if settings.tracking.server is not None:
        return None
    if settings.tracking.artifacts is not None:
        return settings.tracking.artifacts.rstrip("/")
    return (mlflow_folder(settings) / "artifacts").as_uri()


def _reason(error: BaseException) -> str:
    """The first line of the error's message; one sentence for an unreachable server."""
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


def every_page(search: Callable[..., Any], **arguments: Any) -> list[Any]:
    """All results of a paged search, in their order.

    Args:
        search: a method of MLflow's client that takes a ``page_token``.
    """
    found: list[Any] = []
    token: str | None = None
    while True:
        page = search(page_token=token, **arguments)
        found += page
        token = page.token
        if not token:
            return found


def _s3_errors() -> tuple[type[Exception], ...]:
    """The base classes of boto3's errors; empty where nothing has imported boto3."""
    if "boto3" not in sys.modules:
        return ()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return Boto3Error, BotoCoreError, ClientError
