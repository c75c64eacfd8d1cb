"""Make an earlier champion the champion again."""

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import PromotionError
from stillwatch.settings import Settings
from stillwatch.tasks.liveness import os_user
from stillwatch.tasks.promotion.alias import changing_champion, make_champion
from stillwatch.tasks.promotion.history import (
    PromotionRecord,
    ensure_reason,
    history,
    was_champion,
)
from stillwatch.tasks.registry.artefact_check import check_artefact
from stillwatch.tasks.registry.versions import (
    CHAMPION,
    PREVIOUS,
    ensure_registered,
    model_name,
    registered_version,
    version_numbers,
    version_with_alias,
)
from stillwatch.tasks.tracking.client import Tracking, open_tracking


def rollback(
    category: str,
    *,
    version: int | None = None,
    reason: str,
    settings: Settings,
    who: str | None = None,
) -> PromotionRecord:
    """Make an earlier champion the champion again.

    Afterwards ``previous`` names the champion before that one, so that a second rollback goes
    further back and never to the version that was just withdrawn.

    Args:
        version: an earlier champion; None: the alias ``previous``.
        reason: for the history.
        who: for the history; None: the OS account of this process.

    Raises:
        PromotionError: there is no earlier champion, ``version`` has never been champion, the
            reason is empty, the champion changed while this call waited, or the artefact is not
            the one that was registered.
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
        chosen = _earlier_champion(tracking, category, version, champion)
        checked = check_artefact(tracking, chosen, settings)
        return make_champion(
            tracking,
            chosen,
            kind="rollback",
            champion=champion,
            previous=_predecessor(tracking, category, int(chosen.version)),
            who=who or os_user(),
            reason=reason,
            checked=checked,
        )


def _earlier_champion(
    tracking: Tracking, category: str, version: int | None, champion: int | None
) -> ModelVersion:
    name = model_name(category)
    listed = f"'stillwatch history {category}' lists its champions; give the version of one."
    if version is None:
        previous = version_with_alias(tracking, name, PREVIOUS)
        if previous is None:
            raise PromotionError(f"{category} has no previous champion to go back to. {listed}")
        if previous == champion:
            raise PromotionError(
                f"the alias previous of {name} names version {previous}, which is the champion "
                f"already, so there is nothing to go back to. {listed}"
            )
        # The alias is proof enough, also if a person set it.
        return registered_version(tracking, category, previous)
    chosen = registered_version(tracking, category, version)
    if version == champion:
        raise PromotionError(f"version {version} of {name} is the champion already.")
    if not was_champion(tracking, category, version):
        raise PromotionError(
            f"version {version} of {name} never was champion, so there is nothing to go back to. A "
            f"new version is promoted with 'stillwatch promote {category} --version {version} "
            "--approve'."
        )
    return chosen


def _predecessor(tracking: Tracking, category: str, version: int) -> int | None:
    """The champion that this version replaced when it was promoted, if it still exists."""
    for entry in history(tracking, category):
        record = entry.record
        promoted = entry.state == "done" and record.kind == "promotion"
        if promoted and record.to_version == version:
            exists = record.from_version in version_numbers(tracking, model_name(category))
            return record.from_version if exists else None
    return None
