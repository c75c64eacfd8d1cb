"""One process for each flow run, also when Prefect has taken a busy one for dead."""

import os
from pathlib import Path

from filelock import FileLock
from prefect import runtime
from prefect.exceptions import Abort
from prefect.logging import get_run_logger
from pydantic import TypeAdapter, ValidationError

from stillwatch.files import storage_errors, write_json
from stillwatch.tasks.liveness import ProcessIdentity

_Claims = TypeAdapter(dict[str, ProcessIdentity])


def ensure_sole_process(state_dir: Path) -> None:
    """Leave the flow run that this is called in to an earlier process of it that still works.

    Args:
        state_dir: keeps which process works on which flow run.

    Raises:
        Abort: there is such a process on this machine. Prefect ends this one and leaves the run's
            state to the other.
        StorageError: the state folder cannot be written to.
    """
    me = ProcessIdentity.of(os.getpid())
    folder = state_dir / "prefect"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "flow-runs.lock"):
            claims = _living(folder / "flow-runs.json")
            earlier = claims.setdefault(runtime.flow_run.id, me)
            write_json(folder / "flow-runs.json", claims)
    if earlier != me:
        told = f"process {earlier.pid} still works on this run, so it is left to that one"
        get_run_logger().warning("%s.", told.capitalize())
        raise Abort(told)


def _living(file: Path) -> dict[str, ProcessIdentity]:
    try:
        claims = _Claims.validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}
    return {run: process for run, process in claims.items() if process.is_alive()}
