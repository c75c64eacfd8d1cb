"""Making a version champion that waits for it: by the gate, or by a person's approval."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import PromotionError, StillwatchError
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import os_user
from stillwatch.tasks.promotion.alias import changing_champion, move_champion
from stillwatch.tasks.promotion.history import (
    PromotionRecord,
    categories_with_open_intents,
    ensure_reason,
    new_record,
)
from stillwatch.tasks.registry.approval import (
    APPROVAL,
    APPROVED,
    APPROVER,
    COMPARISON,
    NOT_PROMOTED,
    REFUSED,
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
    version_with_alias,
    versions_tagged,
)
from stillwatch.tasks.tracking.client import Tracking, open_tracking

BY_ITSELF = "stillwatch, automatic"
UNKNOWN_APPROVER = "MLflow tag, approver not authenticated"


def promote(
    category: str,
    *,
    version: int | None = None,
    reason: str,
    settings: Settings,
    who: str | None = None,
) -> PromotionRecord:
    """Make a version that waits for approval the champion.

    Args:
        category: whose champion it becomes.
        version: which; None: the challenger.
        reason: why, for the history.
        settings: all of them.
        who: in whose name; None: that of the user of this process.

    Raises:
        PromotionError: it does not wait for approval, there is no reason, or its artefact is not
            what was registered.
        StillwatchError: no such category or version, or the store does not answer.
    """
    ensure_reason(reason)
    tracking = open_tracking(settings)
    ensure_registered(tracking, category)
    with changing_champion(tracking, category, settings):
        chosen = waiting_version(tracking, category, version)
        check_artefact(tracking, chosen, settings)
        return _promote(tracking, category, chosen, who=who or os_user(), reason=reason)


def promote_by_itself(
    tracking: Tracking, category: str, version: int, *, reason: str, settings: Settings
) -> None:
    """Make a version champion that the gate has just judged, its artefact checked.

    Raises:
        PromotionError: in the meantime the champion has become another.
        TrackingError: the store does not answer.
    """
    with changing_champion(tracking, category, settings):
        chosen = waiting_version(tracking, category, version)
        _promote(tracking, category, chosen, who=BY_ITSELF, reason=reason)


def approve_tagged(settings: Settings) -> list[PromotionRecord]:
    """Promote what a person has tagged ``stillwatch.approval=approved`` in MLflow's pages.

    Promotions of any category that were cut off are completed or cancelled first.

    A version that may not be approved gets the tag ``refused`` instead, with the reason beside it.
    One that cannot be checked now keeps the tag for the next time. Neither stops another.

    Raises:
        StillwatchError: the store does not answer, or a version could not be checked.
    """
    tracking = open_tracking(settings)
    promoted: list[PromotionRecord] = []
    failed: list[StillwatchError] = []
    for category in categories_with_open_intents(tracking):
        with _not_in_the_way(failed), changing_champion(tracking, category, settings):
            pass  # what was cut off is settled on the way in
    # Newest first: of two in one category, the other was compared with a champion that is none now.
    for version in versions_tagged(tracking, APPROVAL, APPROVED):
        with _not_in_the_way(failed):
            try:
                promoted.append(_promote_tagged(tracking, version, settings))
            except PromotionError as error:
                logging.getLogger(__name__).warning("%s", error)
                _refuse(tracking, version, str(error))
    if failed:
        raise failed[0]
    return promoted


def describe_waiting(category: str, *, version: int | None, settings: Settings) -> str:
    """What waits for approval, the evidence and how to approve it, in sentences.

    Raises:
        PromotionError: nothing waits.
        TrackingError: no such category or version, or the store does not answer.
    """
    tracking = open_tracking(settings)
    ensure_registered(tracking, category)
    found = waiting_version(tracking, category, version)
    evidence = found.tags.get(COMPARISON) or "There is no champion to compare it with."
    return (
        f"version {found.version} of {found.name} waits for approval "
        f"({found.tags.get(NOT_PROMOTED, '')}). {evidence} To make it champion, add --approve "
        "and --reason."
    )


def waiting_version(tracking: Tracking, category: str, version: int | None) -> ModelVersion:
    """The version that waits for approval.

    Raises:
        PromotionError: it does not wait for approval.
        TrackingError: no such version, or the store does not answer.
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
def _not_in_the_way(failed: list[StillwatchError]) -> Iterator[None]:
    """Keep an error for after the other categories and versions."""
    try:
        yield
    except StillwatchError as error:
        logging.getLogger(__name__).warning("To be tried again: %s", error)
        failed.append(error)


def _promote_tagged(
    tracking: Tracking, version: ModelVersion, settings: Settings
) -> PromotionRecord:
    category = category_of(version.name)
    with changing_champion(tracking, category, settings):
        chosen = waiting_version(tracking, category, int(version.version))
        check_artefact(tracking, chosen, settings)
        who = chosen.tags.get(APPROVER) or UNKNOWN_APPROVER
        return _promote(tracking, category, chosen, who=who, reason="approved by a tag in MLflow")


def _promote(
    tracking: Tracking, category: str, version: ModelVersion, *, who: str, reason: str
) -> PromotionRecord:
    champion = version_with_alias(tracking, model_name(category), CHAMPION)
    record = new_record(
        tracking,
        version,
        category=category,
        kind="promotion",
        champion=champion,
        previous_after=champion,
        who=who,
        reason=reason,
    )
    move_champion(tracking, record)
    return record


def _refuse(tracking: Tracking, version: ModelVersion, reason: str) -> None:
    with tracking.errors(f"tag version {version.version} of {version.name}"):
        client, number = tracking.client, str(version.version)
        client.set_model_version_tag(version.name, number, NOT_PROMOTED, reason)
        client.set_model_version_tag(version.name, number, APPROVAL, REFUSED)
