"""Runs whose process or worker died are found by Prefect itself and started again."""

from collections.abc import Mapping, Sequence, Set
from datetime import timedelta
from types import MappingProxyType

from prefect import get_client
from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.schemas.objects import StateType

TAG = "stillwatch"
"""Of every run of ours: the server may have runs of others, which are none of our business."""
REPEATABLE = "stillwatch-repeatable"
"""Of the deployments whose runs are started again. A rollback must not be done twice, so it has
none; runs of the command line are nobody's to start again."""

_MOST_STARTS = 3
_PATIENCE = timedelta(minutes=5)
"""Ten heartbeats: a machine that is short of time sends some of them late."""
_LONGEST_RUN = timedelta(days=30)
"""With the time that its machine was off."""
_BEAT = "prefect.flow-run.heartbeat"
_STARTS = ("Running", "Rerunning", "Retrying")
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry", "Suspended", "Paused")


def ensure_automations() -> None:
    """Give the Prefect server the automations that it lacks or has in another version.

    One that is as it should be is left alone: Prefect would forget which runs it is waiting for,
    and after a power cut these are the ones that it is needed for. One that somebody has disabled
    stays so.
    """
    with get_client(sync_client=True) as client:
        for wanted in _automations():
            found = client.read_automations_by_name(wanted.name)
            if not found:
                client.create_automation(wanted)
            for one in found:
                changed = wanted.model_copy(update={"enabled": one.enabled})
                if one.model_dump(exclude={"id"}) != changed.model_dump():
                    client.update_automation(one.id, changed)


def _automations() -> Sequence[AutomationCore]:
    return (
        AutomationCore(
            name="stillwatch: a run that is heard of no more has crashed",
            description="Its process or its machine died; what it trained is in its checkpoint.",
            trigger=_trigger(
                posture=Posture.Proactive,
                after={_BEAT},
                expect={_BEAT, *_events(_ENDS)},
                within=_PATIENCE,
                tag=TAG,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED, message="no heartbeat: its process has died"
                )
            ],
        ),
        AutomationCore(
            name="stillwatch: a run that was never begun is begun",
            description="Its worker or its machine died before; nothing was done yet.",
            trigger=_trigger(
                posture=Posture.Proactive,
                after=_events(["Pending"]),
                expect=_events([*_STARTS, *_ENDS]),
                within=_PATIENCE,
                tag=TAG,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.SCHEDULED, message="its worker died before it began"
                )
            ],
        ),
        AutomationCore(
            name="stillwatch: a run that has crashed is started again",
            description="It takes up its training where the last checkpoint is.",
            trigger=_trigger(
                posture=Posture.Reactive,
                # What crashes before it runs would do so for ever, and what crashes again and
                # again has its reason in itself.
                after=_events(_STARTS),
                expect=_events(["Crashed"]),
                within=_LONGEST_RUN,
                labels={"prefect.run-count": [str(count) for count in range(1, _MOST_STARTS)]},
                tag=REPEATABLE,
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


def _events(states: Sequence[str]) -> set[str]:
    return {f"prefect.flow-run.{state}" for state in states}


def _trigger(
    *,
    posture: Posture,
    after: Set[str],
    expect: Set[str],
    within: timedelta,
    tag: str,
    labels: Mapping[str, list[str]] = MappingProxyType({}),
) -> EventTrigger:
    return EventTrigger(
        posture=posture,
        match={"prefect.resource.id": "prefect.flow-run.*", **labels},
        match_related={"prefect.resource.id": f"prefect.tag.{tag}"},
        for_each={"prefect.resource.id"},
        after=set(after),
        expect=set(expect),
        threshold=1,
        within=within,
    )
