"""Putting the work pool and the deployments of ``prefect.yaml`` on a Prefect server."""

import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.exceptions import ObjectAlreadyExists

from stillwatch.errors import ServerError
from stillwatch.flows.servers.worker import PARAMS_VARIABLE, WORK_POOL

PREFECT_FILE = "prefect.yaml"
ONE_AT_A_TIME = ("retrain", "ingest", "watch")
"""Work queues with a concurrency limit of one run. The concurrency limit of a deployment would be a
lease, and Prefect kills a run that cannot renew its lease, as after a laptop's sleep."""


def ensure_work_pool() -> None:
    """Create the work pool and its queues where the server has none of that name."""
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        for name in ONE_AT_A_TIME:
            with suppress(ObjectAlreadyExists):
                client.create_work_queue(name, concurrency_limit=1, work_pool_name=WORK_POOL)


def prefect_file_for(params: Path) -> Path:
    """The ``prefect.yaml`` beside the settings file, else stillwatch's own."""
    beside = params.resolve().parent / PREFECT_FILE
    return beside if beside.exists() else Path(__file__).with_name(PREFECT_FILE)


def deploy(api_url: str, params: Path) -> None:
    """Put the deployments and triggers of ``prefect.yaml`` on the server, in place of older ones.

    Deployments that the file lacks stay, since they may be somebody else's; a warning names them.

    Args:
        api_url: of the Prefect server, which has the work pool.
        params: the settings file; a ``prefect.yaml`` beside it replaces stillwatch's own.

    Raises:
        ServerError: Prefect refused a deployment; the message has the reason.
    """
    file = prefect_file_for(params)
    params = params.resolve()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"),
            *("--prefect-file", str(file)),
        ],
        cwd=params.parent,
        env=os.environ
        | {
            "PREFECT_API_URL": api_url,
            "STILLWATCH_HOME": str(params.parent),
            PARAMS_VARIABLE: str(params),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stdout + done.stderr).strip()[-2000:]
        raise ServerError(f"{file}: Prefect refused the deployments. Fix the file. {reason}")
    for name in _others_than_in(file):
        logging.getLogger(__name__).warning(
            "The Prefect server has the deployment %s, which %s lacks. If nobody needs it, delete "
            "it on its page.",
            name,
            file,
        )


def _others_than_in(file: Path) -> list[str]:
    """The deployments of the work pool that the file does not name."""
    named = {one["name"] for one in yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]}
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
    with get_client(sync_client=True) as client:
        found = {one.name for one in client.read_deployments(work_pool_filter=pool)}
    return sorted(found - named)
