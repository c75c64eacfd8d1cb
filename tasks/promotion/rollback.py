"""Making an earlier champion the champion again."""

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import PromotionError
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import os_user
from stillwatch.tasks.promotion.alias import changing_champion, move_champion
from stillwatch.tasks.promotion.history import (
    PromotionRecord,
    ensure_reason,
    history,
    new_record,
    was_champion,
)
from stillwatch.tasks.registry.artefact_check import check_artefact
from stillwatch.tasks.registry.versions import (
    CHAMPION,
    PREVIOUS,
    ensure_registered,
    model_name,
    registered_version,
    version_with_alias,
    versions_of,
)
from stillwatch.tasks.tracking.client import Tracking, open_tracking


def rollback(
    category: str,
    *,
    to: int | None = None,
    reason: str,
    settings: Settings,
    who: str | None = None,
) -> PromotionRecord:
    """Make an earlier champion the champion again.

    ``previous`` then is what was champion before that one, so that a second rollback goes further
    back and never to the version that was just withdrawn.

    Args:
        category: whose champion.
        to: an earlier champion; None: the alias ``previous``.
        reason: why, for the history.
        settings: all of them.
        who: in whose name; None: that of the user of this process.

    Raises:
        PromotionError: nothing to go back to, ``to`` never was champion, no reason, the champion
            changed while this waited, or the artefact is not what was registered.
        StillwatchError: no such category or version, or the store does not answer.
    """
    ensure_reason(reason)
    tracking = open_tracking(settings)
    ensure_registered(tracking, category)
    name = model_name(category)
    seen = version_with_alias(tracking, name, CHAMPION)
    with changing_champion(tracking, category, settings):
        champion = version_with_alias(tracking, name, CHAMPION)
        if champion != seen:
            raise PromotionError(
                f"the champion of {category} became version {champion} while this rollback waited. "
                f"Look at 'stillwatch history {category}' and decide again."
            )
        chosen = _earlier_champion(tracking, category, to, champion)
        check_artefact(tracking, chosen, settings)
        record = new_record(
            tracking,
            chosen,
            category=category,
            kind="rollback",
            champion=champion,
            previous_after=_predecessor(tracking, category, int(chosen.version)),
            who=who or os_user(),
            reason=reason,
        )
        move_champion(tracking, record)
    return record


def _earlier_champion(
    tracking: Tracking, category: str, to: int | None, champion: int | None
) -> ModelVersion:
    name = model_name(category)
    if to is None:
        to = version_with_alias(tracking, name, PREVIOUS)
        if to is None:
            raise PromotionError(
                f"{category} has no previous champion to go back to. 'stillwatch history "
                f"{category}' lists its champions; --to names one of them."
            )
        if to == champion:
            raise PromotionError(
                f"the alias previous of {name} names version {to}, which is the champion already, "
                f"so there is nothing to go back to. 'stillwatch history {category}' lists its "
                "champions; --to names one of them."
            )
        # The alias says that it was one, also where a person set it.
        return registered_version(tracking, category, to)
    chosen = registered_version(tracking, category, to)
    if to == champion:
        raise PromotionError(f"version {to} of {name} is the champion already.")
    if not was_champion(tracking, category, to):
        raise PromotionError(
            f"version {to} of {name} never was champion, so there is nothing to go back to. A new "
            f"version is promoted with 'stillwatch promote {category} --version {to} --approve'."
        )
    return chosen


def _predecessor(tracking: Tracking, category: str, version: int) -> int | None:
    """What was champion when this version was promoted, if it is still there."""
    there = {int(one.version) for one in versions_of(tracking, model_name(category))}
    for entry in history(tracking, category):
        record = entry.record
        promoted = entry.state == "done" and record.kind == "promotion"
        if promoted and record.to_version == version:
            return record.from_version if record.from_version in there else None
    return None
