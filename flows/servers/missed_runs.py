"""Deleting scheduled runs that were due while no worker ran."""

from datetime import datetime

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.sorting import FlowRunSort

from stillwatch.flows.servers.worker import WORK_POOL

_PAGE = 200


def drop_missed_runs(now: datetime) -> None:
    """Delete the scheduled runs that were due by ``now``, except the newest of each deployment.

    A worker would start all of them. The settings of Prefect's scheduler cannot prevent this: they
    limit how many runs are planned ahead, and a run that is due no longer counts as ahead, so a
    server without a worker collects one run of ``approvals`` every minute. Runs that a person or an
    event started stay, and so do runs that are restarted after a crash.
    """
    with get_client(sync_client=True) as client:
        kept = set()
        for run in _due(client, now):
            if run.deployment_id in kept:
                client.delete_flow_run(run.id)
            kept.add(run.deployment_id)


def _due(client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
    """The scheduled runs of our deployments that were due, newest first."""
    state = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Scheduled", "Late"]))
    until = FlowRunFilterNextScheduledStartTime(before_=now)
    found: list[FlowRun] = []
    while page := client.read_flow_runs(
        flow_run_filter=FlowRunFilter(next_scheduled_start_time=until, state=state),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=_PAGE,
        offset=len(found),
    ):
        found += page
    return [run for run in found if run.auto_scheduled]
