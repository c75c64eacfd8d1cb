"""Move the aliases ``champion`` and ``previous`` together, as a transaction.

MLflow moves one alias at a time. The intent is therefore logged first; then ``previous`` moves,
then ``champion``, then the run of the intent is ended. Only one process of a machine changes the
champion of a category at a time, under a lock; an intent of another machine is waited for. An
intent that was abandoned is completed before the next change, or cancelled if the registry was
changed in the meantime.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities.model_registry import ModelVersion

from stillwatch.settings import Settings
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.promotion.history import (
    Kind,
    PromotionRecord,
    abandoned_intents,
    log_intent,
    now,
    read_record,
)
from stillwatch.tasks.registry import approval
from stillwatch.tasks.registry.judgement import Judgement
from stillwatch.tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    category_of,
    model_name,
    remove_tags,
    set_alias,
    version_numbers,
    version_with_alias,
)
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.tags import DATA_VERSION


@contextmanager
def changing_champion(tracking: Tracking, category: str, settings: Settings) -> Iterator[None]:
    """Hold the lock of a category's champion; first complete or cancel abandoned intents."""
    with exclusive(settings, f"promote-{category}", f"changing the champion of {category}"):
        _recover(tracking, category)
        yield


def make_champion(
    tracking: Tracking,
    version: ModelVersion,
    *,
    kind: Kind,
    champion: int | None,
    previous: int | None,
    who: str,
    reason: str,
    judgement: Judgement | None = None,
    checked: str = "",
    despite: str = "",
) -> PromotionRecord:
    """Make a version the champion; call only inside ``changing_champion``.

    ``champion`` is the current champion, ``previous`` the version that the alias of this name gets,
    ``judgement`` the one that a promotion rests on.
    """
    record = PromotionRecord(
        category=category_of(version.name),
        kind=kind,
        when=now(),
        who=who,
        from_version=champion,
        to_version=int(version.version),
        previous_before=version_with_alias(tracking, version.name, PREVIOUS),
        previous_after=previous,
        answer=judgement.answer if judgement else None,
        comparison=judgement.comparison if judgement else "",
        data_version=tracking.tags(str(version.run_id)).get(DATA_VERSION, ""),
        reason=reason.strip(),
        checked=checked,
        missed=judgement.missed_floors if judgement else "",
        despite=despite.strip(),
    )
    move_champion(tracking, record)
    return record


def move_champion(tracking: Tracking, record: PromotionRecord) -> None:
    """Do what a record says; call only inside ``changing_champion``."""
    run_id = log_intent(tracking, record)
    _complete(tracking, record, run_id)


def _recover(tracking: Tracking, category: str) -> None:
    """Complete or cancel the abandoned intents of a category."""
    name = model_name(category)
    for run in abandoned_intents(tracking, category):
        record, run_id = read_record(run), run.info.run_id
        champion = version_with_alias(tracking, name, CHAMPION)
        if record is None:
            tracking.fail_run(run_id, "the record is damaged")
        elif record.to_version not in version_numbers(tracking, name):
            _restore_previous(tracking, record)
            tracking.fail_run(run_id, f"version {record.to_version} was deleted")
        elif champion not in (record.from_version, record.to_version):
            _restore_previous(tracking, record)
            tracking.fail_run(run_id, "somebody else moved the alias champion")
        else:
            _complete(tracking, record, run_id)


def _complete(tracking: Tracking, record: PromotionRecord, run_id: str) -> None:
    """Apply an intent and end its run; every step may be repeated after a kill."""
    name, version = model_name(record.category), str(record.to_version)
    set_alias(tracking, name, PREVIOUS, record.previous_after)
    set_alias(tracking, name, CHAMPION, record.to_version)
    with tracking.errors(f"tag version {version} of {name}"):
        client = tracking.client
        client.set_model_version_tag(name, version, approval.CHAMPION_SINCE, record.when)
        client.set_model_version_tag(name, version, approval.APPROVAL, approval.PROMOTED)
        promoted = client.get_model_version(name, version)
    remove_tags(tracking, promoted, [approval.NOT_PROMOTED])
    if version_with_alias(tracking, name, CHALLENGER) == record.to_version:
        set_alias(tracking, name, CHALLENGER, None)
    tracking.end_run(run_id, "FINISHED")


def _restore_previous(tracking: Tracking, record: PromotionRecord) -> None:
    """Undo the move of ``previous``; ``champion`` does not name the version of the record."""
    name, before = model_name(record.category), record.previous_before
    if version_with_alias(tracking, name, PREVIOUS) == record.previous_after:
        exists = before in version_numbers(tracking, name)
        set_alias(tracking, name, PREVIOUS, before if exists else None)
