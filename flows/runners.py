"""The Prefect task runners of a retraining: threads, processes, or a Ray cluster."""

import math
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from prefect.settings import PREFECT_API_URL
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from stillwatch.errors import ServerError, SettingsError
from stillwatch.machine.devices import usable_devices
from stillwatch.settings import Settings
from stillwatch.tasks.libraries.logs import log_file, log_to
from stillwatch.tasks.libraries.telemetry import SWITCHES
from stillwatch.tasks.training.slots import slots_per_device

_PROBE_SECONDS = 5.0
_RAY_PRECISION = 10_000
"""Ray counts resources in steps of 1/10000, and rounds a request to the nearest."""
_OVERLAP = 1
"""Tasks beside the trainings: one category is examined or evaluated while another is trained."""
_THREADS_PER_SLOT = 2
"""One for a training and one for its evaluation, which keeps its thread while it waits for the
training. An evaluation that waits keeps no process: a process pool waits for the inputs of a task
before it submits the task. Ray, too, starts no task whose inputs are not there."""


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """The task runner for all tasks but trainings and evaluations.

    Raises:
        SettingsError: ``training.device`` names a GPU that this machine does not have.
    """
    if settings.runtime.task_runner == "ray":
        return ThreadPoolTaskRunner(max_workers=1 + _OVERLAP)
    slots = len(usable_devices(settings.training.device)) * slots_per_device(settings)
    if settings.runtime.task_runner == "thread":
        return ThreadPoolTaskRunner(max_workers=_THREADS_PER_SLOT * slots + _OVERLAP)
    file = log_file()
    if file is None:
        return ProcessPoolTaskRunner(slots + _OVERLAP)
    # The processes of the pool log to the file that this process logs to.
    return ProcessPoolTaskRunner(slots + _OVERLAP, initializer=log_to, initargs=(file,))


def detector_runner(
    settings: Settings, here: TaskRunner[Any]
) -> AbstractContextManager[TaskRunner[Any]]:
    """The task runner for trainings and evaluations: ``ray_cluster``, or else ``here``."""
    return ray_cluster(settings) if settings.runtime.task_runner == "ray" else nullcontext(here)


@contextmanager
def ray_cluster(settings: Settings) -> Iterator[TaskRunner[Any]]:
    """Yield a task runner in which every task holds one slot of a GPU of the cluster.

    Each machine declares its GPUs to Ray (``ray start --num-gpus``); one without any declares its
    CPU as one. A task whose machine dies is started again on another.

    Raises:
        SettingsError: Ray is not installed, no machine of the cluster has declared a GPU, or there
            is more than one machine and settings that mean something on this one only.
        ServerError: no cluster answers, or not to this process.
    """
    if find_spec("prefect_ray") is None:
        raise SettingsError(
            "runtime.task_runner is ray, and prefect_ray is not installed. Install the extra ray "
            "on every machine of the cluster: pip install 'stillwatch[ray]'."
        )
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    address = str(settings.runtime.ray_address)
    _ensure_answers(address)
    runner = RayTaskRunner(
        address,
        {
            "log_to_driver": False,
            "runtime_env": {"env_vars": {name: os.environ[name] for name in SWITCHES}},
        },
    )
    with ExitStack() as stack:
        try:
            stack.enter_context(runner)
        except Exception as error:  # Ray's own share no base class
            raise ServerError(
                f"runtime.ray_address={address}: Ray does not let this process in ({error}). This "
                "machine must be a node of the cluster itself ('ray start', with --num-gpus 0 if "
                "it trains nothing), with the same Ray and Python, and with the cluster's token "
                "(RAY_AUTH_MODE=token and ~/.ray/auth_token) if it asks for one."
            ) from error
        _ensure_usable(settings)
        stack.enter_context(remote_options(num_cpus=0, num_gpus=_share_of_gpu(settings)))
        yield runner


def _ensure_answers(address: str) -> None:
    # Ray itself waits for minutes, if not for ever.
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        raise ServerError(
            f"runtime.ray_address={address}: no Ray cluster answers there ({error}). Start its "
            "head with 'ray start --head', or set runtime.task_runner to thread."
        ) from error


def _ensure_usable(settings: Settings) -> None:
    import ray

    if not ray.cluster_resources().get("GPU"):
        raise SettingsError(
            f"runtime.ray_address={settings.runtime.ray_address}: no machine of the cluster has "
            "declared a GPU, so no training would ever start. Start Ray there with --num-gpus; on "
            "a machine without a GPU, --num-gpus 1 stands for its CPU."
        )
    machines = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(machines) > 1:
        ensure_shared(settings, sorted(machines))


def ensure_shared(settings: Settings, machines: Sequence[str]) -> None:
    """Refuse settings that each machine of a cluster would take for a path or server of its own.

    Raises:
        SettingsError: not all of them reach the MLflow store or the Prefect server.
    """
    where = f"the Ray cluster has {len(machines)} machines ({', '.join(machines)})"
    tracking = settings.tracking
    database = str(tracking.uri).startswith("postgresql:")
    shared_store = tracking.server or (database and tracking.artifacts)
    if not shared_store or _is_local(str(tracking.uri)):
        raise SettingsError(
            f"tracking.uri: {where}, and MLflow's store is this machine's own. Set it to an MLflow "
            "server that all of them reach, such as http://head.plant.example:5000."
        )
    if _is_local(PREFECT_API_URL.value() or ""):
        raise SettingsError(
            f"PREFECT_API_URL={PREFECT_API_URL.value()}: {where}, and the others cannot reach "
            "this address. Set it to one that they reach (and services.host, where stillwatch "
            "starts the server)."
        )


def _is_local(address: str) -> bool:
    return urlsplit(address).hostname in {"localhost", "127.0.0.1", "::1"}


def _share_of_gpu(settings: Settings) -> float:
    # Rounded down, or else seven slots would ask for more than one GPU.
    return math.floor(_RAY_PRECISION / slots_per_device(settings)) / _RAY_PRECISION
