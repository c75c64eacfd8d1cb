"""Make a version champion that waits for approval: by the gate, a command or a tag in MLflow."""

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import ArtefactError, BelowFloorsError, PromotionError
from stillwatch.settings import Settings
from stillwatch.tasks.evaluation.notes import tested
from stillwatch.tasks.evaluation.result import read_result
from stillwatch.tasks.liveness import os_user
from stillwatch.tasks.promotion.alias import changing_champion, make_champion
from stillwatch.tasks.promotion.history import (
    PromotionRecord,
    categories_with_abandoned_intents,
    ensure_reason,
)
from stillwatch.tasks.registry import approval
from stillwatch.tasks.registry.artefact_check import check_artefact
from stillwatch.tasks.registry.judgement import Judgement, read_judgement
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
"""Who promotes, in the history, where the gate does."""


def promote(
    category: str,
    *,
    version: int | None = None,
    reason: str,
    despite: str = "",
    settings: Settings,
    who: str | None = None,
    check: bool = True,
) -> PromotionRecord:
    """Make a version that waits for approval the champion.

    Args:
        version: which version; None: the challenger.
        reason: for the history.
        despite: why a version that misses a floor becomes champion, for the history.
        who: for the history; None: the OS account of this process.
        check: check the artefact first; False only for the gate, which has just checked it.

    Raises:
        BelowFloorsError: the version misses a floor, and ``despite`` is empty.
        PromotionError: the version does not wait for approval, the gate's judgement of the version
            is damaged, the reason is empty, or the artefact is not the one that was registered. A
            version that was approved by a tag gets the tag ``refused``, or ``pending`` if it
            misses a floor, with the error in another tag.
    """
    ensure_reason(reason)
    who = who or os_user()
    tracking = open_tracking(settings)
    ensure_registered(tracking, category)
    with changing_champion(tracking, category, settings):
        try:
            waiting, judgement = _waiting_version(tracking, category, version)
            approval.ensure_floors(waiting, judgement.missed_floors, despite)
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
            judgement=judgement,
            checked=checked,
            despite=despite,
        )


def complete_abandoned_promotions(tracking: Tracking, settings: Settings) -> None:
    """Complete or cancel the promotions of all categories that were interrupted."""
    for category in categories_with_abandoned_intents(tracking):
        with changing_champion(tracking, category, settings):
            pass  # entering the context completes or cancels the intents


def describe_waiting(category: str, *, version: int | None, settings: Settings) -> str:
    """Describe the version that waits for approval, its comparison, and how to approve it.

    Raises:
        PromotionError: no version waits, or the gate's judgement of the version is damaged.
        TrackingError: the evaluation of the version is damaged.
    """
    tracking = open_tracking(settings)
    ensure_registered(tracking, category)
    found, judgement = _waiting_version(tracking, category, version)
    does = tested(read_result(tracking, str(found.run_id)))
    comparison = judgement.comparison or "There is no champion to compare it with."
    missed = judgement.missed_floors
    options = "--approve and --reason" if not missed else "--approve, --reason and --despite"
    why = f" ({found.tags[approval.NOT_PROMOTED]})" if approval.NOT_PROMOTED in found.tags else ""
    return (
        f"version {found.version} of {found.name} waits for approval{why}. On the test "
        f"images it {does}. {comparison} "
        f"To make it champion, add {options}."
        + (f" --despite says why, although {missed}." if missed else "")
    )


def _waiting_version(
    tracking: Tracking, category: str, version: int | None
) -> tuple[ModelVersion, Judgement]:
    """The version, or else the challenger; a ``PromotionError`` if it waits for no approval."""
    name = model_name(category)
    if version is None:
        version = version_with_alias(tracking, name, CHALLENGER)
    if version is None:
        raise PromotionError(
            f"{category} has no challenger that waits for approval. 'stillwatch models' shows what "
            "is registered."
        )
    found = registered_version(tracking, category, version)
    problem = approval.obstacle(category, found, version_with_alias(tracking, name, CHAMPION))
    if problem is not None:
        raise PromotionError(problem)
    try:
        return found, read_judgement(tracking, found)
    except ArtefactError as error:
        raise PromotionError(str(error)) from error


def _answer_tag(tracking: Tracking, category: str, version: int, error: PromotionError) -> None:
    """Tell a person whose tag has approved a version why the version is not promoted.

    A version that lacks only the reason for a missed floor can be approved again.
    """
    found = registered_version(tracking, category, version)
    if found.tags.get(approval.APPROVAL) == approval.APPROVED:
        below_floors = isinstance(error, BelowFloorsError)
        tags = {
            approval.NOT_PROMOTED: str(error),
            approval.APPROVAL: approval.PENDING if below_floors else approval.REFUSED,
        }
        tag_version(tracking, found, tags)
