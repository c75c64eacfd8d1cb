"""Moving the alias ``champion`` as a transaction, which MLflow does not have.

One at a time per category, under a lock of this machine; what another machine, or a process with
another state folder, has begun in the same registry is waited for. The intent is written first,
then ``previous`` moves, then ``champion``, then the intent is closed. Whoever takes the lock next
completes what was cut off, or cancels it where the registry has changed in the meantime, before
doing anything else.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from stillwatch.settings import Settings
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.promotion.history import (
    LONGEST,
    PromotionRecord,
    begin,
    close,
    may_go_on,
    open_intents,
    read_outcome,
    read_record,
)
from stillwatch.tasks.registry.approval import APPROVAL, CHAMPION_SINCE, PROMOTED
from stillwatch.tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    model_name,
    version_with_alias,
)
from stillwatch.tasks.tracking.client import Tracking


@contextmanager
def changing_champion(tracking: Tracking, category: str, settings: Settings) -> Iterator[None]:
    """Hold the category's lock; what was cut off before is completed or cancelled first.

    Raises:
        TrackingError: the store does not answer.
        StorageError: the state folder cannot be written to.
    """
    doing = f"changing the champion of {category}"
    with exclusive(settings, f"promote-{category}", doing):
        settle(tracking, category)
        yield


def move_champion(tracking: Tracking, record: PromotionRecord) -> None:
    """Make ``record.to_version`` champion; only inside ``changing_champion``.

    Raises:
        TrackingError: the store does not answer; the next ``changing_champion`` settles it.
    """
    run_id = begin(tracking, record)
    _apply(tracking, record)
    close(tracking, run_id, "done")


def settle(tracking: Tracking, category: str) -> None:
    """Complete or cancel what was cut off; only inside ``changing_champion``.

    Raises:
        TrackingError: the store does not answer.
    """
    name = model_name(category)
    for intent in _cut_off(tracking, category):
        run_id = intent.info.run_id
        record = read_record(tracking, run_id)
        outcome = read_outcome(tracking, run_id)
        if record is None:
            close(tracking, run_id, "cancelled", "it was cut off before anything was changed")
        elif outcome is not None:
            close(tracking, run_id, outcome)
        elif not _is_there(tracking, name, record.to_version):
            _undo(tracking, record)
            close(tracking, run_id, "cancelled", f"version {record.to_version} was deleted")
        elif version_with_alias(tracking, name, CHAMPION) in (
            record.from_version,
            record.to_version,
        ):
            _apply(tracking, record)
            close(tracking, run_id, "done")
        else:
            _undo(tracking, record)
            close(tracking, run_id, "cancelled", "somebody moved the alias champion meanwhile")


def _cut_off(tracking: Tracking, category: str) -> list[Run]:
    """The open intents, as soon as nobody else can be at work at one."""
    until = time.monotonic() + LONGEST.total_seconds()
    waiting = False
    while True:
        intents = open_intents(tracking, category)
        if not any(map(may_go_on, intents)) or time.monotonic() > until:
            return intents
        if not waiting:
            waiting = True
            logging.getLogger(__name__).warning(
                "Another process is changing the champion of %s: waiting for it.", category
            )
        time.sleep(1)


def _apply(tracking: Tracking, record: PromotionRecord) -> None:
    """Every step may be repeated: a killed run's steps are simply done again."""
    name, version = model_name(record.category), str(record.to_version)
    _point(tracking, name, PREVIOUS, record.previous_after)
    _point(tracking, name, CHAMPION, record.to_version)
    with tracking.errors(f"tag version {version} of {name}"):
        client = tracking.client
        client.set_model_version_tag(name, version, CHAMPION_SINCE, record.when)
        client.set_model_version_tag(name, version, APPROVAL, PROMOTED)
    if version_with_alias(tracking, name, CHALLENGER) == record.to_version:
        _point(tracking, name, CHALLENGER, None)


def _undo(tracking: Tracking, record: PromotionRecord) -> None:
    """Only ``previous`` may have moved: ``champion`` is not where the record would put it."""
    name, before = model_name(record.category), record.previous_before
    if version_with_alias(tracking, name, PREVIOUS) != record.previous_after:
        return
    there = before is not None and _is_there(tracking, name, before)
    _point(tracking, name, PREVIOUS, before if there else None)


def _point(tracking: Tracking, name: str, alias: str, version: int | None) -> None:
    with tracking.errors(f"set the alias {alias} of {name}"):
        if version is None:
            tracking.client.delete_registered_model_alias(name, alias)
        else:
            tracking.client.set_registered_model_alias(name, alias, str(version))


def _is_there(tracking: Tracking, name: str, version: int) -> bool:
    with tracking.errors(f"look up version {version} of {name}"):
        try:
            tracking.client.get_model_version(name, str(version))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
    return True
