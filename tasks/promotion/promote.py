"""Make a version champion that waits for approval: by the gate, a command or a tag in MLflow."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import BelowFloorsError, PromotionError, StillwatchError
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import os_user
from stillwatch.tasks.promotion.alias import changing_champion, make_champion
from stillwatch.tasks.promotion.history import (
    PromotionRecord,
    categories_with_open_intents,
    ensure_reason,
)
from stillwatch.tasks.registry.approval import (
    APPROVAL,
    APPROVED,
    APPROVER,
    COMPARISON,
    DESPITE,
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
    category_of,
    ensure_registered,
    model_name,
    registered_version,
    tag_version,
    version_with_alias,
    versions_tagged,
)
from stillwatch.tasks.tracking.client import Tracking, open_tracking

AUTOMATIC = "stillwatch, automatic"
UNKNOWN_APPROVER = "MLflow tag, approver not authenticated"
BY_TAG = "approved by a tag in MLflow"


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
            is not the one that was registered.
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


def approve_tagged(settings: Settings) -> list[PromotionRecord]:
    """Promote the versions that a person has tagged ``stillwatch.approval=approved`` in MLflow.

    Abandoned promotions of all categories are completed or cancelled first.

    A version that may not be approved gets the tag ``refused``, with the reason in another tag; one
    that misses a floor and has no tag ``stillwatch.despite`` waits on. A version that cannot be
    checked now keeps its tag for the next call. None of them stops the others.

    Raises:
        StillwatchError: a version could not be checked.
    """
    tracking = open_tracking(settings)
    promoted: list[PromotionRecord] = []
    failed: list[StillwatchError] = []
    for category in categories_with_open_intents(tracking):
        with _collected(failed), changing_champion(tracking, category, settings):
            pass  # entering the context completes or cancels the intents
    # Newest first: after its promotion, an older version of the category was compared with a former
    # champion and is refused.
    for version in versions_tagged(tracking, APPROVAL, APPROVED):
        with _collected(failed):
            try:
                category, number = category_of(version.name), int(version.version)
                who = version.tags.get(APPROVER) or UNKNOWN_APPROVER
                despite = version.tags.get(DESPITE, "")
                record = _promote(
                    tracking, category, number, who, BY_TAG, settings, despite=despite
                )
                promoted.append(record)
            except PromotionError as error:
                logging.getLogger(__name__).warning("%s", error)
                approval = PENDING if isinstance(error, BelowFloorsError) else REFUSED
                tag_version(tracking, version, {NOT_PROMOTED: str(error), APPROVAL: approval})
    if failed:
        raise failed[0]
    return promoted


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


@contextmanager
def _collected(failed: list[StillwatchError]) -> Iterator[None]:
    """Keep an error, so that it does not stop other categories and versions."""
    try:
        yield
    except StillwatchError as error:
        logging.getLogger(__name__).warning("Tried again next time: %s", error)
        failed.append(error)


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
        waiting = waiting_version(tracking, category, version)
        ensure_floors(waiting, despite)
        checked = check_artefact(tracking, waiting, settings) if check else ""
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
