"""Putting the deployments of ``prefect.yaml`` on a Prefect server."""

import os
import subprocess
import sys
from pathlib import Path

from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from flows.worker import PARAMS_VARIABLE, WORK_POOL
from stillwatch.errors import ServerError

PREFECT_FILE = "prefect.yaml"
_CHECKOUT = Path(__file__).parents[1]


def ensure_work_pool() -> None:
    """Make the work pool, unless the server has it; a pool that somebody changed stays as it is."""
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        except ObjectAlreadyExists:
            return


def prefect_file_for(params: Path) -> Path:
    """The ``prefect.yaml`` beside the settings file, else stillwatch's own."""
    beside = params.resolve().parent / PREFECT_FILE
    return beside if beside.exists() else _CHECKOUT / PREFECT_FILE


def deploy(api_url: str, params: Path) -> None:
    """Make the server's deployments and triggers equal to those in ``prefect.yaml``.

    Args:
        api_url: of the Prefect server, on which the work pool is.
        params: the settings file; a ``prefect.yaml`` beside it replaces stillwatch's own.

    Raises:
        ServerError: Prefect refused; the message has its reason.
    """
    file = prefect_file_for(params)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"),
            *("--prefect-file", str(file)),
        ],
        cwd=_CHECKOUT,
        env=os.environ
        | {
            "PREFECT_API_URL": api_url,
            "STILLWATCH_HOME": str(_CHECKOUT),
            PARAMS_VARIABLE: str(params.resolve()),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stdout + done.stderr).strip()[-2000:]
        raise ServerError(f"{file}: Prefect refused the deployments. Mend the file. {reason}")
