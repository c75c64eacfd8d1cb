"""Runs whose process died are found by Prefect itself and started again, a few times."""

from collections.abc import Sequence, Set
from datetime import timedelta

from prefect import get_client, runtime
from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.schemas.objects import StateType

from stillwatch.errors import ServerError

HEARTBEAT_SECONDS = 30
"""The shortest that Prefect allows."""
TAG = "stillwatch"
"""Of the deployments that are watched. A rollback must not be done twice, so its is not; runs of
the command line are nobody's to start again."""

_MOST_STARTS = 3
_PATIENCE = timedelta(seconds=3 * HEARTBEAT_SECONDS)
_BEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry", "Suspended", "Paused")


def ensure_automations() -> None:
    """Give the Prefect server the automations that it lacks.

    One that is there is left alone: Prefect would forget which runs it is waiting for, and after a
    power cut these are the ones that it is needed for.
    """
    with get_client(sync_client=True) as client:
        for automation in _automations():
            if not client.read_automations_by_name(automation.name):
                client.create_automation(automation)


def give_up_after_crashes() -> None:
    """Let the flow run that this is called in end if its process has died again and again.

    Raises:
        ServerError: it was started so often that the reason must lie in itself.
    """
    if runtime.flow_run.run_count > _MOST_STARTS:
        raise ServerError(
            f"this run's process died {_MOST_STARTS} times, so it is not started again. The "
            "worker's log and the system's (memory?) say why; mend that, then run it anew."
        )


def _automations() -> Sequence[AutomationCore]:
    return (
        AutomationCore(
            name="stillwatch: a run that is heard of no more has crashed",
            description="Its process or its machine died; what it trained is in its checkpoint.",
            trigger=_trigger(
                posture=Posture.Proactive,
                after={_BEAT},
                expect={_BEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
                within=_PATIENCE,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED, message="no heartbeat: its process has died"
                )
            ],
        ),
        AutomationCore(
            name="stillwatch: a run that has crashed is started again",
            description="It takes up its training where the last checkpoint is.",
            trigger=_trigger(
                posture=Posture.Reactive,
                expect={"prefect.flow-run.Crashed"},
                within=timedelta(0),
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.SCHEDULED,
                    name="AwaitingRetry",
                    message="started again after a crash",
                )
            ],
        ),
    )


def _trigger(
    *,
    posture: Posture,
    expect: set[str],
    within: timedelta,
    after: Set[str] = frozenset(),
) -> EventTrigger:
    return EventTrigger(
        posture=posture,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.id": f"prefect.tag.{TAG}"},
        for_each={"prefect.resource.id"},
        after=set(after),
        expect=expect,
        threshold=1,
        within=within,
    )
