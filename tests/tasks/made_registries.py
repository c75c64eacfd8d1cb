"""A registry with versions that hold no detector, for what is about aliases and tags alone."""

from contextlib import suppress

from mlflow.exceptions import MlflowException
from tests.tasks.made_results import result

from stillwatch.comparison.comparison import Answer
from stillwatch.tasks.evaluation.result import RESULT_FILE
from stillwatch.tasks.promotion.history import PromotionRecord
from stillwatch.tasks.registry.approval import APPROVAL, GATE, PENDING, decision
from stillwatch.tasks.registry.judgement import Judgement, write_judgement
from stillwatch.tasks.registry.versions import version_with_alias
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.tags import DATA_VERSION

NAME = "stillwatch-plate"
MISSED = "it finds 2 of 20 defects, fewer than half (retrain.floors.recall 0.5)"
"""What a version misses that finds a tenth of the defects."""


def new_version(tracking: Tracking, **tags: str) -> int:
    with suppress(MlflowException):
        tracking.client.create_registered_model(NAME)
    named = {f"stillwatch.{key}": value for key, value in tags.items()}
    run_id = tracking.start_run("plate", "stfpm", {DATA_VERSION: "d.dir"})
    return int(tracking.client.create_model_version(NAME, "nowhere", run_id, tags=named).version)


def pending_version(tracking: Tracking, champion: int | None, answer: Answer = "better") -> int:
    """A challenger that the gate has left to a person."""
    version = new_version(tracking)
    judge(tracking, version, champion, answer)
    figures = {"recall": 0.1, "false_alarm_rate": 0.0}
    evaluation = result(reviewed_anomalies=5, metrics=figures).model_dump(mode="json")
    run_id = tracking.client.get_model_version(NAME, str(version)).run_id
    tracking.client.log_dict(run_id, evaluation, RESULT_FILE)
    tracking.client.set_model_version_tag(NAME, str(version), APPROVAL, PENDING)
    tracking.client.set_registered_model_alias(NAME, "challenger", str(version))
    return version


def judge(
    tracking: Tracking,
    version: int,
    champion: int | None,
    answer: Answer = "better",
    missed: str = "",
) -> None:
    """Store a judgement as the gate does."""
    judgement = Judgement(
        version=version,
        evaluation="e",
        compared_with=champion,
        answer=answer,
        comparison=f"{answer}: by far.",
        missed_floors=missed,
    )
    found = tracking.client.get_model_version(NAME, str(version))
    write_judgement(tracking, found, judgement)
    decided = decision(refused=answer == "worse", findings=[answer], champion=champion)
    tracking.client.set_model_version_tag(NAME, str(version), GATE, decided)


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
