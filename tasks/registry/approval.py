"""The tags of a registered version that say whether it waits for a person's approval."""

from typing import Literal

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import BelowFloorsError

APPROVAL = "stillwatch.approval"
PENDING, APPROVED, REFUSED, PROMOTED = "pending", "approved", "refused", "promoted"
"""A person sets ``approved``; stillwatch sets the others."""
APPROVER = "stillwatch.approver"
ANSWER = "stillwatch.answer"
GATE = "stillwatch.gate"
"""``refused`` or ``open``; not ``stillwatch.approval``, which people overwrite."""
COMPARISON = "stillwatch.comparison"
"""The gate's answer as a sentence."""
COMPARED_WITH = "stillwatch.compared_with"
"""Version of the champion, or ``none``; a version without this tag is not judged yet."""
JUDGED_EVALUATION = "stillwatch.judged_evaluation"
"""The ``evaluation_key`` of the evaluation that the gate judged."""
NOT_PROMOTED = "stillwatch.not_promoted"
"""Why the version did not become champion automatically."""
MISSED_FLOORS = "stillwatch.missed_floors"
"""Which floors the version misses, when the gate judged it; empty or no tag: none."""
DESPITE = "stillwatch.despite"
"""Why a person approves a version in spite of ``MISSED_FLOORS``; set with ``approved``."""
CHAMPION_SINCE = "stillwatch.champion_since"

Standing = Literal["pending", "refused"]


def obstacle(version: ModelVersion, champion: int | None) -> str | None:
    """Why nobody can approve a version, in one sentence; None if it may be approved.

    ``champion`` is the present one.
    """
    tags, title = version.tags, f"version {version.version} of {version.name}"
    if int(version.version) == champion:
        return f"{title} is the champion already."
    if CHAMPION_SINCE in tags:
        return (
            f"{title} has been champion before. To bring it back, use "
            f"'stillwatch rollback CATEGORY --version {version.version}'."
        )
    if tags.get(GATE) == REFUSED:
        return (
            f"the gate refused {title} ({tags.get(COMPARISON, '')}) Train a better one; or change "
            "gate in params.yaml, delete the version in MLflow and retrain, so that it is judged "
            "again."
        )
    if COMPARED_WITH not in tags or tags.get(APPROVAL) not in (PENDING, APPROVED):
        return f"{title} waits for no approval. 'stillwatch models' shows which versions do."
    if tags[COMPARED_WITH] != compared_with(champion):
        now = f"version {champion}" if champion else "there is none"
        return (
            f"{title} was compared with the champion of that time ({tags[COMPARED_WITH]}), and the "
            f"champion now is another ({now}). Retrain: the winner is compared with it."
        )
    return None


def standing(version: ModelVersion, champion: int | None) -> Standing | None:
    """Whether a person can still make a version champion; None for present and past champions."""
    if version.tags.get(GATE) == REFUSED:
        return "refused"
    return "pending" if obstacle(version, champion) is None else None


def ensure_floors(version: ModelVersion, despite: str) -> None:
    """Refuse a version that misses a floor, unless a person says why it shall become champion.

    Raises:
        BelowFloorsError: the version misses a floor, and ``despite`` is empty.
    """
    missed = version.tags.get(MISSED_FLOORS, "")
    if missed and not despite.strip():
        raise BelowFloorsError(
            f"version {version.version} of {version.name} misses what a champion has to reach: "
            f"{missed}. To make it champion in spite of that, say why: --despite 'reason'; in "
            f"Prefect's form the field despite; in MLflow the tag {DESPITE}, then {APPROVAL} again."
        )


def compared_with(champion: int | None) -> str:
    """The value of the tag ``COMPARED_WITH``."""
    return "none" if champion is None else str(champion)
