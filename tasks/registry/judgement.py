"""The gate's judgement of a registered version, as a JSON file among the artifacts of its run."""

from typing import Any

from mlflow.entities.model_registry import ModelVersion
from pydantic import BaseModel, ConfigDict

from stillwatch.comparison.comparison import Answer
from stillwatch.tasks.registry.approval import GATE
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.entries import JsonArtifact

_FILE = JsonArtifact(
    "judgement.json",
    f"Delete the tag {GATE} of the version in MLflow, and retrain: the gate judges it again.",
)


class Judgement(BaseModel):
    """What the gate found out about a version, and what it decided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    evaluation: str
    """The ``evaluation_key`` of the evaluation that was judged."""
    compared_with: int | None
    """Version of the champion; None: there was no champion."""
    answer: Answer | None
    """The answer of the comparison; None without a comparison."""
    comparison: str
    """The comparison as a sentence; empty if there was no champion."""
    missed_floors: str
    """Which floors the version misses; empty: none."""


def write_judgement(tracking: Tracking, version: ModelVersion, judgement: Judgement) -> None:
    """Store a judgement in the run of the version, and replace an earlier one."""
    _FILE.write(tracking, str(version.run_id), judgement.model_dump())


def read_judgement(tracking: Tracking, version: ModelVersion) -> Judgement:
    """The judgement of a version, which has the tag ``GATE``.

    Raises:
        ArtefactError: the file is missing or damaged, or of another version.
    """

    def parsed(content: Any) -> Judgement:
        judgement = Judgement.model_validate(content)
        if judgement.version != int(version.version):
            raise ValueError(f"it judges version {judgement.version}")
        return judgement

    return _FILE.parse(tracking, str(version.run_id), parsed)
