"""Scheduled runs that nobody started, as while a machine was off: made up for once each."""

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
    """Delete what the schedules had due by ``now``, but for the newest run of each deployment.

    Prefect plans an hour of a schedule ahead and would start every one of these runs. What a person
    or an event asked for stays, and so does what is started again after a crash.
    """
    with get_client(sync_client=True) as client:
        kept = set()
        for run in _due(client, now):
            if run.deployment_id in kept:
                client.delete_flow_run(run.id)
            kept.add(run.deployment_id)


def _due(client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
    """What the schedules of our deployments had due, newest first."""
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
