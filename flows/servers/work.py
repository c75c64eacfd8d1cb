"""Find out what there is to do: images in the inbox, approved versions, new scores.

Nothing here may be slow or import torch or DVC: the trigger asks every few seconds.
"""

from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from stillwatch.inference.score_log import FOLDER
from stillwatch.settings import Settings
from stillwatch.tasks.inbox.announcements import unannounced
from stillwatch.tasks.inbox.arrivals import still_files
from stillwatch.tasks.registry.approval import APPROVAL, APPROVED, APPROVER, DESPITE, NOT_PROMOTED
from stillwatch.tasks.registry.versions import category_of, versions_tagged
from stillwatch.tasks.tracking.client import Tracking

UNKNOWN_APPROVER = "unknown"
BY_TAG = "approved by a tag in MLflow"

_INGEST_SECONDS = 300.0
_WATCH_SECONDS = 900.0


@dataclass(frozen=True)
class Work:
    """What one flow run would do."""

    flow: str
    """Name of the flow, and of its deployment."""
    stamp: Hashable
    """Changes when new work arrives; a restart does not change it."""
    parameters: Mapping[str, str | int] = field(default_factory=dict)
    seconds_between: float = 0.0
    """Shortest time between the starts of two runs of the flow."""


def images_to_admit(settings: Settings) -> list[Work]:
    """A run of ``ingest`` if images lie still in the inbox, or are not announced yet.

    Ingests are minutes apart, since every ingest with images makes a version of the image set and
    starts a retraining.

    Raises:
        StorageError: the inbox cannot be read.
    """
    arrivals = [
        (one.name, one.stamp)
        for one in still_files(settings.inbox.path, settings.inbox.settle_seconds)
    ]
    left_over = unannounced(settings.state_dir)
    if not arrivals and not left_over:
        return []
    return [Work("ingest", repr((arrivals, left_over)), seconds_between=_INGEST_SECONDS)]


def versions_to_promote(tracking: Tracking) -> list[Work]:
    """A run of ``promote`` for each version that a person has approved by a tag, newest first.

    The run of an older version of the same category fails, since that version was compared with a
    former champion.
    """
    return [
        Work(
            "promote",
            # After a refusal, stillwatch.not_promoted has another reason.
            (version.tags.get(NOT_PROMOTED), version.tags.get(DESPITE)),
            {
                "category": category_of(version.name),
                "version": int(version.version),
                "approver": version.tags.get(APPROVER) or UNKNOWN_APPROVER,
                "reason": BY_TAG,
                "despite": version.tags.get(DESPITE, ""),
            },
        )
        for version in versions_tagged(tracking, APPROVAL, APPROVED)
    ]


def scores_to_test(settings: Settings) -> list[Work]:
    """A run of ``watch`` if the score log has changed: images were inspected, or labelled."""
    changed = []
    for file in sorted((settings.state_dir / FOLDER).glob("*.db*")):
        with suppress(FileNotFoundError):  # SQLite has removed its write-ahead log meanwhile
            stat = file.stat()
            # A reader makes an index, -shm, and an empty write-ahead log.
            if stat.st_size and not file.name.endswith("-shm"):
                changed.append((file.name, stat.st_size, stat.st_mtime_ns))
    return [Work("watch", repr(changed), seconds_between=_WATCH_SECONDS)] if changed else []
