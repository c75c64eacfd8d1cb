"""The history of a category's champions: one MLflow run per promotion or rollback.

A run's ``promotion.json`` is written before an alias moves and never again: as long as the run is
not closed it is an open intent. ``outcome.json`` closes it, and the run's status says the same:
FINISHED is done, FAILED is cancelled. That a run is a promotion is a parameter of it, which cannot
be changed. Tags and names of the run decide nothing, for anybody may edit them.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillwatch.errors import PromotionError, TrackingError
from stillwatch.tasks.liveness import may_live_elsewhere
from stillwatch.tasks.registry.approval import ANSWER, COMPARISON
from stillwatch.tasks.registry.versions import PREVIOUS, version_with_alias
from stillwatch.tasks.tracking.client import KIND, Status, Tracking
from stillwatch.tasks.tracking.entries import milliseconds
from stillwatch.tasks.tracking.mlflow_pages import every_page

RECORD_FILE, OUTCOME_FILE = "promotion.json", "outcome.json"
Kind = Literal["promotion", "rollback"]
Outcome = Literal["done", "cancelled"]
LONGEST = timedelta(minutes=5)
"""An intent that is open for longer was cut off."""

_MARK = {KIND: "promotion"}
"""Of such a run, as tag and as parameter."""
_STATUS: dict[Outcome, Status] = {"done": "FINISHED", "cancelled": "FAILED"}


class PromotionRecord(BaseModel):
    """What moves the champion, from where to where, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: int = 1
    category: str
    kind: Kind
    when: str = Field(description="ISO 8601, UTC")
    who: str
    from_version: int | None = Field(alias="from", description="the champion before, if any")
    to_version: int = Field(alias="to")
    previous_before: int | None = Field(description="what the alias previous pointed to")
    previous_after: int | None
    answer: str | None = Field(description="the gate's; null without a comparison")
    comparison: str = Field(description="the same as a sentence")
    data_version: str = Field(description="that the new champion was trained on")
    reason: str


@dataclass(frozen=True)
class HistoryEntry:
    """One line of ``stillwatch history``."""

    record: PromotionRecord
    state: Literal["done", "cancelled", "open"]
    """``open``: cut off, or going on; what changes the champion next completes or cancels it."""
    run_id: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.record.model_dump(by_alias=True) | {"state": self.state, "run_id": self.run_id}


def now() -> str:
    """This second, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def ensure_reason(reason: str) -> None:
    """Refuse a reason that says nothing.

    Raises:
        PromotionError: it is empty.
    """
    if not reason.strip():
        raise PromotionError("--reason is missing. Say why: the history keeps it.")


def new_record(
    tracking: Tracking,
    version: ModelVersion,
    *,
    category: str,
    kind: Kind,
    champion: int | None,
    previous_after: int | None,
    who: str,
    reason: str,
) -> PromotionRecord:
    """The record of making ``version`` champion now; only inside ``changing_champion``.

    Args:
        tracking: the registry.
        version: the next champion.
        category: whose.
        kind: promotion or rollback.
        champion: the version that is champion now.
        previous_after: what the alias ``previous`` shall point to.
        who: a person or a policy.
        reason: why.

    Raises:
        TrackingError: the registry does not answer.
    """
    return PromotionRecord(
        category=category,
        kind=kind,
        when=now(),
        who=who,
        from_version=champion,
        to_version=int(version.version),
        previous_before=version_with_alias(tracking, version.name, PREVIOUS),
        previous_after=previous_after,
        answer=version.tags.get(ANSWER) or None,
        comparison=version.tags.get(COMPARISON, ""),
        data_version=version.tags.get("stillwatch.data_version", ""),
        reason=reason.strip(),
    )


def history(tracking: Tracking, category: str) -> list[HistoryEntry]:
    """Every promotion and rollback of a category, newest first.

    Raises:
        TrackingError: a record is damaged, or the store does not answer.
    """
    entries = []
    for run in _runs(tracking, category):
        state = _state(run)
        record = read_record(tracking, run.info.run_id)
        if record is not None:
            entries.append(HistoryEntry(record, state, run.info.run_id))
        elif state == "done":
            raise TrackingError(
                f"{RECORD_FILE} of run {run.info.run_id} at {tracking.uri} is missing or damaged. "
                "Restore the file from a backup: a history with a gap proves nothing."
            )
    return entries


def was_champion(tracking: Tracking, category: str, version: int) -> bool:
    """Whether the history says that a version became champion, or that another replaced it.

    Raises:
        TrackingError: a record is damaged, or the store does not answer.
    """
    return any(
        entry.state == "done" and version in (entry.record.from_version, entry.record.to_version)
        for entry in history(tracking, category)
    )


def named_versions(tracking: Tracking, category: str) -> frozenset[int]:
    """Every version that the history names, also where a promotion was cancelled or is open.

    Raises:
        TrackingError: a record is damaged, or the store does not answer.
    """
    records = [entry.record for entry in history(tracking, category)]
    named = {
        version
        for one in records
        for version in (one.from_version, one.to_version, one.previous_before, one.previous_after)
    }
    return frozenset(version for version in named if version is not None)


def open_intents(tracking: Tracking, category: str) -> list[Run]:
    """The runs of promotions that were begun and neither done nor cancelled, newest first.

    Raises:
        TrackingError: the store does not answer.
    """
    return [run for run in _runs(tracking, category) if _state(run) == "open"]


def categories_with_open_intents(tracking: Tracking) -> list[str]:
    """The categories of which ``open_intents`` finds some, without a request for each; sorted.

    Raises:
        TrackingError: the store does not answer.
    """
    categories = tracking.categories_by_experiment()
    if not categories:
        return []
    is_open = " and ".join(f"attributes.status != '{closed}'" for closed in _STATUS.values())
    with tracking.errors("search the promotions of all categories"):
        found = [
            run
            for kind in ("params", "tags")  # as in _runs
            for run in every_page(
                tracking.client.search_runs,
                experiment_ids=list(categories),
                filter_string=f"{kind}.`{KIND}` = '{_MARK[KIND]}' and {is_open}",
            )
        ]
    return sorted({categories[run.info.experiment_id] for run in found})


def may_go_on(intent: Run) -> bool:
    """Whether another process, perhaps of another machine, may be at work at an open intent."""
    oldest = milliseconds() - LONGEST / timedelta(milliseconds=1)
    young = intent.info.status == "RUNNING" and intent.info.start_time > oldest
    return young and may_live_elsewhere(intent.data.tags)


def begin(tracking: Tracking, record: PromotionRecord) -> str:
    """Write the intent and return its run's id; no alias may move before.

    Raises:
        TrackingError: the store does not answer or cannot be written.
    """
    run_id = tracking.start_run(
        record.category, f"{record.kind} to version {record.to_version}", _MARK
    )
    tracking.log(run_id, params=_MARK)
    with tracking.errors("record a promotion"):
        tracking.client.log_dict(run_id, record.model_dump(by_alias=True), RECORD_FILE)
    return run_id


def close(tracking: Tracking, run_id: str, outcome: Outcome, reason: str | None = None) -> None:
    """Say how an intent ended; what said so already is left as it is.

    Raises:
        TrackingError: the store does not answer or cannot be written.
    """
    with tracking.errors("close a promotion"):
        if read_outcome(tracking, run_id) is None:
            said = {"outcome": outcome, "when": now(), "reason": reason}
            tracking.client.log_dict(run_id, said, OUTCOME_FILE)
    tracking.end_run(run_id, _STATUS[outcome])


def read_record(tracking: Tracking, run_id: str) -> PromotionRecord | None:
    """The intent of a run; None when it was cut off before it was written whole.

    Raises:
        TrackingError: the store does not answer.
    """
    if RECORD_FILE not in tracking.artifact_names(run_id):
        return None
    with tracking.artifact(run_id, RECORD_FILE) as path:
        return record_in(path)


def read_outcome(tracking: Tracking, run_id: str) -> Outcome | None:
    """How a run's intent ended; None while it is open.

    Raises:
        TrackingError: the store does not answer.
    """
    if OUTCOME_FILE not in tracking.artifact_names(run_id):
        return None
    with tracking.artifact(run_id, OUTCOME_FILE) as path:
        return outcome_in(path)


def record_in(file: Path) -> PromotionRecord | None:
    """The intent in a file; None when it was not written whole.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return PromotionRecord.model_validate_json(file.read_bytes())
    except ValidationError:
        return None


def outcome_in(file: Path) -> Outcome | None:
    """How an intent ended that lies beside a file; None without the file, or half of it.

    Raises:
        OSError: the file cannot be read.
    """
    if not file.exists():
        return None
    try:
        outcome: Outcome | None = json.loads(file.read_bytes()).get("outcome")
    except (ValueError, AttributeError):
        return None
    return outcome


def _runs(tracking: Tracking, category: str) -> list[Run]:
    # What an earlier stillwatch wrote, or what was cut off at once, has only the tag.
    found = [*tracking.find_runs(category, {}, _MARK), *tracking.find_runs(category, _MARK)]
    by_id = {run.info.run_id: run for run in found}
    return sorted(by_id.values(), key=lambda run: run.info.start_time, reverse=True)


def _state(run: Run) -> Literal["done", "cancelled", "open"]:
    # A retraining marks runs of dead processes as KILLED: such an intent is still open.
    by_status = {status: outcome for outcome, status in _STATUS.items()}
    return by_status.get(run.info.status, "open")
