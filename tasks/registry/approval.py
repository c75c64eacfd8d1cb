"""The tags of a registered version that say whether it waits for a person's approval."""

from collections.abc import Mapping, Sequence
from typing import Literal

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import BelowFloorsError

APPROVAL = "stillwatch.approval"
PENDING, APPROVED, REFUSED, PROMOTED = "pending", "approved", "refused", "promoted"
"""A person sets ``approved``; stillwatch sets the others."""
APPROVER = "stillwatch.approver"
GATE = "stillwatch.gate"
"""The decision of the gate, as ``decision`` writes it; not ``stillwatch.approval``, which people
overwrite. A version without this tag is not judged yet."""
NOT_PROMOTED = "stillwatch.not_promoted"
"""Why the version did not become champion automatically; no tag: nothing was against it."""
DESPITE = "stillwatch.despite"
"""Why a person approves a version that misses a floor; set with ``approved``."""
CHAMPION_SINCE = "stillwatch.champion_since"

ApprovalState = Literal["pending", "refused"]


def decision(*, refused: bool, findings: Sequence[str], champion: int | None) -> str:
    """The value of the tag ``GATE``.

    Args:
        refused: nobody may approve the version.
        findings: what a comparison with the champion found out, a few words each.
        champion: the champion at that time, if there was one.

    For example ``open: not_worse (champion then: version 1)``.
    """
    found = f": {', '.join(findings)}" if findings else ""
    return f"{REFUSED if refused else 'open'}{found} {_champion_then(champion)}"


def was_judged_against(tags: Mapping[str, str], champion: int | None) -> bool:
    """Whether the gate judged a version when this one was the champion."""
    return tags.get(GATE, "").endswith(_champion_then(champion))


def _champion_then(champion: int | None) -> str:
    return f"(champion then: {'none' if champion is None else f'version {champion}'})"


def _is_refused(tags: Mapping[str, str]) -> bool:
    return tags.get(GATE, "").startswith(REFUSED)


def obstacle(category: str, version: ModelVersion, champion: int | None) -> str | None:
    """Why nobody can approve a version, in one sentence; None if it may be approved.

    ``champion`` is the present one.
    """
    tags, title = version.tags, f"version {version.version} of {version.name}"
    if int(version.version) == champion:
        return f"{title} is the champion already."
    if CHAMPION_SINCE in tags:
        return (
            f"{title} has been champion before. To bring it back, use "
            f"'stillwatch rollback {category} --version {version.version}'."
        )
    if _is_refused(tags):
        return (
            f"the gate refused {title} (its tag {GATE}: {tags[GATE]}). Train a better one; or "
            "change gate in params.yaml, delete the version in MLflow and retrain, so that it is "
            "judged again."
        )
    if GATE not in tags or tags.get(APPROVAL) not in (PENDING, APPROVED):
        return f"{title} waits for no approval. 'stillwatch models' shows which versions do."
    if not was_judged_against(tags, champion):
        now = f"version {champion}" if champion else "none"
        return (
            f"the gate judged {title} when the champion was another one (its tag {GATE}: "
            f"{tags[GATE]}; the champion now: {now}). Retrain: the winner is compared with it."
        )
    return None


def approval_state(
    category: str, version: ModelVersion, champion: int | None
) -> ApprovalState | None:
    """Whether a person can still make a version champion; None for present and past champions."""
    if _is_refused(version.tags):
        return "refused"
    return "pending" if obstacle(category, version, champion) is None else None


def ensure_floors(version: ModelVersion, missed: str, despite: str) -> None:
    """Refuse a version that misses a floor, unless a person says why it shall become champion.

    Args:
        missed: which floors the version misses; empty: none.

    Raises:
        BelowFloorsError: the version misses a floor, and ``despite`` is empty.
    """
    if missed and not despite.strip():
        raise BelowFloorsError(
            f"version {version.version} of {version.name} misses what a champion has to reach: "
            f"{missed}. To make it champion in spite of that, say why: --despite 'reason'; in "
            f"Prefect's form the field despite; in MLflow the tag {DESPITE}, then {APPROVAL} again."
        )
