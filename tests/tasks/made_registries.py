"""A registry with versions that hold no detector, for what is about aliases and tags alone."""

from contextlib import suppress

from mlflow.exceptions import MlflowException

from stillwatch.tasks.promotion.history import PromotionRecord
from stillwatch.tasks.registry.approval import (
    ANSWER,
    APPROVAL,
    COMPARED_WITH,
    COMPARISON,
    GATE,
    PENDING,
    REFUSED,
)
from stillwatch.tasks.registry.versions import version_with_alias
from stillwatch.tasks.tracking.client import Tracking

NAME = "stillwatch-plate"


def new_version(tracking: Tracking, **tags: str) -> int:
    with suppress(MlflowException):
        tracking.client.create_registered_model(NAME)
    named = {f"stillwatch.{key}": value for key, value in tags.items()}
    run_id = tracking.start_run("plate", "stfpm", {})
    return int(tracking.client.create_model_version(NAME, "nowhere", run_id, tags=named).version)


def pending_version(tracking: Tracking, champion: int | None, answer: str = "better") -> int:
    """A challenger that the gate has left to a person."""
    version = new_version(tracking, data_version="d.dir")
    for key, value in {
        ANSWER: answer,
        COMPARISON: f"{answer}: by far.",
        COMPARED_WITH: str(champion or "none"),
        GATE: REFUSED if answer == "worse" else "open",
        APPROVAL: PENDING,
    }.items():
        tracking.client.set_model_version_tag(NAME, str(version), key, value)
    tracking.client.set_registered_model_alias(NAME, "challenger", str(version))
    return version


def aliases(tracking: Tracking) -> dict[str, int | None]:
    return {
        alias: version_with_alias(tracking, NAME, alias)
        for alias in ("champion", "previous", "challenger")
    }


def made_record(to: int, champion: int | None, previous: int | None = None) -> PromotionRecord:
    return PromotionRecord(
        category="plate",
        kind="promotion",
        when="2026-11-22T10:00:00+00:00",
        who="ada",
        from_version=champion,
        to_version=to,
        previous_before=previous,
        previous_after=champion,
        answer="better",
        comparison="better: by far.",
        data_version="d.dir",
        reason="it finds the scratches",
    )
