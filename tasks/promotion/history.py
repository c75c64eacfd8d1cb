"""The history of a category's champions: one MLflow run for each promotion and rollback.

The parameters of such a run are the intent. They are logged in one request before an alias moves,
and MLflow does not let anybody change a parameter. The status of the run is the outcome: FINISHED
is a completed intent, FAILED is a cancelled one, and any other status is an open one. Tags and the
name of the run, which anybody may edit, have no meaning.
"""

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from mlflow.entities import Run
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillwatch.errors import PromotionError, TrackingError
from stillwatch.tasks.liveness import may_live_elsewhere
from stillwatch.tasks.tracking.client import Tracking, every_page
from stillwatch.tasks.tracking.entries import milliseconds
from stillwatch.tasks.tracking.tags import KIND

Kind = Literal["promotion", "rollback"]
State = Literal["done", "cancelled", "open"]

_PATIENCE = timedelta(minutes=5)
"""An intent that is open for longer is abandoned."""
_MARK = {KIND: "promotion"}
"""Parameter of a run that records a promotion or a rollback."""
_CLOSED: dict[str, State] = {"FINISHED": "done", "FAILED": "cancelled"}


class PromotionRecord(BaseModel):
    """The intent to make a version the champion."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    category: str
    kind: Kind
    when: str = Field(description="ISO 8601, UTC")
    who: str
    from_version: int | None = Field(None, alias="from", description="the champion before, if any")
    to_version: int = Field(alias="to")
    previous_before: int | None = Field(None, description="version of the alias previous before")
    previous_after: int | None = None
    answer: str | None = Field(
        None, description="of the gate; null without a comparison, and for a rollback"
    )
    comparison: str = Field("", description="the gate's answer as a sentence")
    data_version: str = Field("", description="that the new champion was trained on")
    reason: str
    checked: str = Field("", description="how the artefact was checked before the change")
    missed: str = Field("", description="the floors that the new champion misses")
    despite: str = Field("", description="why it became champion in spite of that")


@dataclass(frozen=True)
class HistoryEntry:
    """One line of ``stillwatch history``."""

    record: PromotionRecord
    state: State
    """``open``: in progress or abandoned; the next change of the champion completes or cancels it.
    """
    run_id: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.record.model_dump(by_alias=True) | {"state": self.state, "run_id": self.run_id}


def now() -> str:
    """This second, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def ensure_reason(reason: str) -> None:
    """Raise a ``PromotionError`` if the reason is empty."""
    if not reason.strip():
        raise PromotionError("the reason is missing. Say why: the history keeps it.")


def history(tracking: Tracking, category: str) -> list[HistoryEntry]:
    """Every promotion and rollback of a category, newest first.

    Raises:
        TrackingError: the record of a completed promotion or rollback is damaged.
    """
    entries = []
    for run in tracking.find_runs(category, {}, _MARK):
        record, state = read_record(run), _state(run)
        if record is not None:
            entries.append(HistoryEntry(record, state, run.info.run_id))
        elif state == "done":
            raise TrackingError(
                f"the record of the promotion in run {run.info.run_id} at {tracking.uri} is "
                "damaged. Restore MLflow's database from a backup, or delete the run."
            )
    return entries


def was_champion(tracking: Tracking, category: str, version: int) -> bool:
    """Whether a version has been champion, by the history."""
    return any(
        entry.state == "done" and version in (entry.record.from_version, entry.record.to_version)
        for entry in history(tracking, category)
    )


def log_intent(tracking: Tracking, record: PromotionRecord) -> str:
    """Log the intent, before any alias moves, and return the id of its run."""
    run_id = tracking.start_run(
        record.category, f"{record.kind} to version {record.to_version}", _MARK
    )
    # Empty values are logged as well, since somebody could add a missing parameter later.
    values = record.model_dump(by_alias=True).items()
    params = {key: "" if value is None else value for key, value in values}
    tracking.log(run_id, params=_MARK | params)
    return run_id


def read_record(run: Run) -> PromotionRecord | None:
    """The intent of a run; None if its parameters are no valid record."""
    params = {key: value for key, value in run.data.params.items() if value and key not in _MARK}
    try:
        return PromotionRecord.model_validate(params)
    except ValidationError:
        return None


def open_intents(tracking: Tracking, category: str) -> list[Run]:
    """The runs of a category whose intent is neither done nor cancelled, newest first."""
    return [run for run in tracking.find_runs(category, {}, _MARK) if _state(run) == "open"]


def abandoned_intents(tracking: Tracking, category: str) -> list[Run]:
    """The open intents of a category, once no other process can be working on one of them."""
    until = time.monotonic() + _PATIENCE.total_seconds()
    waiting = False
    while True:
        intents = open_intents(tracking, category)
        if not any(map(_may_continue, intents)) or time.monotonic() > until:
            return intents
        if not waiting:
            waiting = True
            logging.getLogger(__name__).warning(
                "Another process is changing the champion of %s: waiting for it.", category
            )
        time.sleep(1)


def categories_with_abandoned_intents(tracking: Tracking) -> list[str]:
    """The categories with an open intent that no process works on, sorted; one search for all."""
    categories = tracking.categories_by_experiment()
    if not categories:
        return []
    wanted = [f"params.`{key}` = '{value}'" for key, value in _MARK.items()]
    wanted += [f"attributes.status != '{status}'" for status in _CLOSED]
    with tracking.errors("search the promotions of all categories"):
        found = every_page(
            tracking.client.search_runs,
            experiment_ids=list(categories),
            filter_string=" and ".join(wanted),
        )
    abandoned = (run for run in found if not _may_continue(run))
    return sorted({categories[run.info.experiment_id] for run in abandoned})


def _may_continue(intent: Run) -> bool:
    """Whether another process, perhaps on another machine, may be working on an open intent."""
    oldest = milliseconds() - _PATIENCE / timedelta(milliseconds=1)
    recent = intent.info.status == "RUNNING" and intent.info.start_time > oldest
    return recent and may_live_elsewhere(intent.data.tags)


def _state(run: Run) -> State:
    # A retraining marks the runs of dead processes as KILLED: their intents are still open.
    return _CLOSED.get(run.info.status, "open")
