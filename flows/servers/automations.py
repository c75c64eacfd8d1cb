"""Prefect automations that find runs whose process or worker died, and start them again."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType

from prefect import get_client
from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.schemas.objects import StateType

TAG = "stillwatch"
"""Tag of every run of stillwatch; the automations leave all other runs of the server alone."""
REPEATABLE = "stillwatch-repeatable"
"""Tag of the deployments whose runs may be started again. A rollback must not be done twice, and a
run of the command line has no worker to start it again."""

_MAX_STARTS = 3
_TIMEOUT = timedelta(minutes=5)
"""Ten heartbeats: a busy machine sends some of them late."""
_LONGEST_RUN = timedelta(days=30)
"""Including the time that the machine was off."""
_HEARTBEAT = "prefect.flow-run.heartbeat"
_STARTS = ("Running", "Rerunning", "Retrying")
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry", "Suspended", "Paused")


def ensure_automations() -> None:
    """Create the automations that the Prefect server lacks, and update those that differ.

    An automation that needs no update is left alone: an update makes Prefect forget which runs the
    automation waits for, and after a power cut these are the runs that matter. An automation that
    somebody has disabled stays disabled.
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
        _automation(
            "mark runs without a heartbeat as crashed",
            "The process or the machine died; the last checkpoint has the training.",
            ChangeFlowRunState(
                state=StateType.CRASHED, message="no heartbeat: the process has died"
            ),
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *_events(_ENDS)},
        ),
        _automation(
            "reschedule runs stuck in Pending",
            "The worker or the machine died before the run started.",
            ChangeFlowRunState(
                state=StateType.SCHEDULED, message="the worker died before the run started"
            ),
            after=_events(["Pending"]),
            expect=_events([*_STARTS, *_ENDS]),
        ),
        _automation(
            "restart crashed runs",
            "The run continues its training from the last checkpoint.",
            ChangeFlowRunState(
                state=StateType.SCHEDULED, name="AwaitingRetry", message="restarted after a crash"
            ),
            posture=Posture.Reactive,
            # A run that crashes before it is Running would be restarted for ever.
            after=_events(_STARTS),
            expect=_events(["Crashed"]),
            within=_LONGEST_RUN,
            labels={"prefect.run-count": [str(count) for count in range(1, _MAX_STARTS)]},
            tag=REPEATABLE,
        ),
    )


def _events(states: Sequence[str]) -> set[str]:
    return {f"prefect.flow-run.{state}" for state in states}


def _automation(
    name: str,
    description: str,
    action: ChangeFlowRunState,
    *,
    after: set[str],
    expect: set[str],
    posture: Posture = Posture.Proactive,
    within: timedelta = _TIMEOUT,
    tag: str = TAG,
    labels: Mapping[str, list[str]] = MappingProxyType({}),
) -> AutomationCore:
    trigger = EventTrigger(
        posture=posture,
        match={"prefect.resource.id": "prefect.flow-run.*", **labels},
        match_related={"prefect.resource.id": f"prefect.tag.{tag}"},
        for_each={"prefect.resource.id"},
        after=after,
        expect=expect,
        threshold=1,
        within=within,
    )
    return AutomationCore(
        name=f"stillwatch: {name}", description=description, trigger=trigger, actions=[action]
    )
