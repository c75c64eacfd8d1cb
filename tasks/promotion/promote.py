"""Make a version champion that waits for approval: by the gate, a command or a tag in MLflow."""

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import BelowFloorsError, PromotionError
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import os_user
from stillwatch.tasks.promotion.alias import changing_champion, make_champion
from stillwatch.tasks.promotion.history import (
    PromotionRecord,
    categories_with_abandoned_intents,
    ensure_reason,
)
from stillwatch.tasks.registry.approval import (
    APPROVAL,
    APPROVED,
    COMPARISON,
    MISSED_FLOORS,
    NOT_PROMOTED,
    PENDING,
    REFUSED,
    ensure_floors,
    obstacle,
)
from stillwatch.tasks.registry.artefact_check import check_artefact
from stillwatch.tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    ensure_registered,
    model_name,
    registered_version,
    tag_version,
    version_with_alias,
)
from stillwatch.tasks.tracking.client import Tracking, open_tracking

AUTOMATIC = "stillwatch, automatic"


def promote(
    category: str,
    *,
    version: int | None = None,
    reason: str,
    despite: str = "",
    settings: Settings,
    who: str | None = None,
) -> PromotionRecord:
    """Make a version that waits for approval the champion.

    Args:
        category: whose champion.
        version: which version; None: the challenger.
        reason: for the history.
        despite: why a version that misses a floor becomes champion, for the history.
        settings: of all categories.
        who: for the history; None: the OS account of this process.

    Raises:
        BelowFloorsError: the version misses a floor, and ``despite`` is empty.
        PromotionError: the version does not wait for approval, the reason is empty, or the artefact
            is not the one that was registered. A version that was approved by a tag gets the tag
            ``refused``, or ``pending`` if it misses a floor, with the error in another tag.
        TrackingError: there is no such category or version.
    """
    ensure_reason(reason)
    tracking = open_tracking(settings)
    ensure_registered(tracking, category)
    return _promote(
        tracking, category, version, who or os_user(), reason, settings, despite=despite
    )


def promote_automatically(
    tracking: Tracking, category: str, version: int, *, reason: str, settings: Settings
) -> None:
    """Make a version the champion that the gate has just judged and whose artefact was checked.

    Raises:
        PromotionError: the champion has changed since the comparison.
    """
    _promote(tracking, category, version, AUTOMATIC, reason, settings, check=False)


def complete_abandoned_promotions(tracking: Tracking, settings: Settings) -> None:
    """Complete or cancel the promotions of all categories that were interrupted."""
    for category in categories_with_abandoned_intents(tracking):
        with changing_champion(tracking, category, settings):
            pass  # entering the context completes or cancels the intents


def describe_waiting(category: str, *, version: int | None, settings: Settings) -> str:
    """Describe the version that waits for approval, its comparison, and how to approve it.

    Raises:
        PromotionError: no version waits.
        TrackingError: there is no such category or version.
    """
    tracking = open_tracking(settings)
    ensure_registered(tracking, category)
    found = waiting_version(tracking, category, version)
    comparison = found.tags.get(COMPARISON) or "There is no champion to compare it with."
    missed = found.tags.get(MISSED_FLOORS)
    options = "--approve and --reason" if not missed else "--approve, --reason and --despite"
    return (
        f"version {found.version} of {found.name} waits for approval "
        f"({found.tags.get(NOT_PROMOTED, '')}). {comparison} To make it champion, add {options}."
        + (f" --despite says why, although {missed}." if missed else "")
    )


def waiting_version(tracking: Tracking, category: str, version: int | None) -> ModelVersion:
    """The version that waits for approval; None: the challenger.

    Raises:
        PromotionError: the version does not wait for approval.
        TrackingError: there is no such version.
    """
    name = model_name(category)
    if version is None:
        version = version_with_alias(tracking, name, CHALLENGER)
    if version is None:
        raise PromotionError(
            f"{category} has no challenger that waits for approval. 'stillwatch models' shows what "
            "is registered."
        )
    found = registered_version(tracking, category, version)
    problem = obstacle(found, version_with_alias(tracking, name, CHAMPION))
    if problem is not None:
        raise PromotionError(problem.replace("CATEGORY", category))
    return found


def _promote(
    tracking: Tracking,
    category: str,
    version: int | None,
    who: str,
    reason: str,
    settings: Settings,
    *,
    despite: str = "",
    check: bool = True,
) -> PromotionRecord:
    with changing_champion(tracking, category, settings):
        try:
            waiting = waiting_version(tracking, category, version)
            ensure_floors(waiting, despite)
            checked = check_artefact(tracking, waiting, settings) if check else ""
        except PromotionError as error:
            if version is not None:
                _answer_tag(tracking, category, version, error)
            raise
        champion = version_with_alias(tracking, waiting.name, CHAMPION)
        return make_champion(
            tracking,
            waiting,
            kind="promotion",
            champion=champion,
            previous=champion,
            who=who,
            reason=reason,
            checked=checked,
            despite=despite,
        )


def _answer_tag(tracking: Tracking, category: str, version: int, error: PromotionError) -> None:
    """Tell a person whose tag has approved a version why the version is not promoted.

    A version that lacks only the reason for a missed floor can be approved again.
    """
    found = registered_version(tracking, category, version)
    if found.tags.get(APPROVAL) == APPROVED:
        approval = PENDING if isinstance(error, BelowFloorsError) else REFUSED
        tag_version(tracking, found, {NOT_PROMOTED: str(error), APPROVAL: approval})
