"""The settings of a flow run."""

import os
from pathlib import Path

from prefect import runtime
from prefect.exceptions import Abort
from prefect.logging import get_run_logger

from stillwatch.flows.servers.worker import PARAMS_VARIABLE
from stillwatch.machine.threads import set_thread_policy
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.liveness import hold


def run_settings() -> Settings:
    """The settings of the file that the environment variable ``STILLWATCH_PARAMS`` names.

    ``runtime.threads`` is in effect from here on.

    Raises:
        Abort: as ``ensure_sole_process``.
        SettingsError: the settings file is not valid.
    """
    settings = load_settings(Path(os.environ.get(PARAMS_VARIABLE, "params.yaml")))
    set_thread_policy(settings.runtime.threads)
    ensure_sole_process(settings.state_dir)
    return settings


def ensure_sole_process(state_dir: Path) -> None:
    """Leave the current flow run to an earlier process of the run that is still alive.

    A busy process may miss heartbeats. Prefect then takes it for dead and starts the run again.

    Args:
        state_dir: for a lock of each flow run, which its process holds.

    Raises:
        Abort: another process of this machine works on the run. Prefect ends this process and
            leaves the state of the run to the other one.
    """
    lock = state_dir / "locks" / f"flow-run-{runtime.flow_run.id}.lock"
    if not hold(lock):
        get_run_logger().warning("This run is left to an earlier process of it, which is alive.")
        raise Abort("an earlier process of this run is alive")
