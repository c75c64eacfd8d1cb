"""Rewrite the approval pages in Prefect whose version does not wait any more."""

import re

from mlflow.entities.model_registry import ModelVersion
from prefect import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey

from stillwatch.tasks.libraries.artifact_keys import artifact_key
from stillwatch.tasks.promotion.history import history
from stillwatch.tasks.registry.approval import APPROVAL, NOT_PROMOTED, REFUSED, obstacle
from stillwatch.tasks.registry.versions import (
    CHAMPION,
    model_name,
    version_with_alias,
    versions_of,
)
from stillwatch.tasks.tracking.client import Tracking

REPORT_LINK = "[The whole report]"
"""The text of the link to the report, on every page."""

_WAITS = re.compile(r"Version (\d+) of (\S+) waits for approval")


def waits(category: str, version: int) -> str:
    """The description of the page of a version that waits."""
    return f"Version {version} of {category} waits for approval"


def rewrite_decided(tracking: Tracking) -> None:
    """Replace the approval page of each decided version by the decision: who, when and why."""
    ours = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(like_="approval-%"))
    with get_client(sync_client=True) as client:
        for page in client.read_latest_artifacts(artifact_filter=ours):
            waiting = _WAITS.fullmatch(page.description or "")
            if waiting is None:
                continue
            number, category = int(waiting[1]), waiting[2]
            decision = _decision(tracking, category, number)
            if decision is not None:
                link = next((one for one in str(page.data).split("\n\n") if REPORT_LINK in one), "")
                heading = f"# {category}: version {number} does not wait any more"
                client.create_artifact(
                    ArtifactCreate(
                        key=artifact_key("approval", category),
                        type="markdown",
                        description=f"Version {number} of {category}: {decision}",
                        data=f"{heading}\n\n{decision}\n\n{link}",
                    )
                )


def _decision(tracking: Tracking, category: str, number: int) -> str | None:
    """What became of a version, in a sentence; None while it waits or is being promoted."""
    name = model_name(category)
    versions = {int(one.version): one for one in versions_of(tracking, name)}
    if number not in versions:
        return "The version was deleted."
    version = versions[number]
    problem = obstacle(category, version, version_with_alias(tracking, name, CHAMPION))
    if problem is None:
        return None
    for entry in history(tracking, category):
        record = entry.record
        if record.to_version != number or record.kind != "promotion":
            continue
        if entry.state == "open":
            return None
        if entry.state == "done":
            return f"Approved by {record.who}, {record.when}. Reason: {record.reason}"
    return f"Not promoted: {_reason(version, problem)}"


def _reason(version: ModelVersion, problem: str) -> str:
    refused = version.tags.get(APPROVAL) == REFUSED
    return str(version.tags.get(NOT_PROMOTED) or problem) if refused else problem
