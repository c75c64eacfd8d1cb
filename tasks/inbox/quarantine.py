"""The quarantine: refused files in the layout of the inbox, each with its reason beside it."""

import os
from pathlib import Path

from stillwatch.files import atomic_file, move_whole
from stillwatch.settings import Settings
from stillwatch.tasks.inbox.arrivals import Arrival

_REASON = ".reason.txt"
_LONGEST_NAME = 200
"""In bytes. A name may have 255; the rest is for a number, ``_REASON`` and the temporary name."""


def quarantine(settings: Settings) -> Path:
    """The folder of refused files."""
    return settings.state_dir / "quarantine"


def refuse(arrival: Arrival, reason: str, settings: Settings) -> None:
    """Write the reason, then move the file or folder into the quarantine.

    A long name is cut; the reason's text has the whole name.

    Args:
        reason: a phrase that follows the file's name.

    Raises:
        StorageError: the quarantine cannot be written to, or the disk is full.
        OSError: this arrival cannot be moved for another reason.
    """
    folder = quarantine(settings)
    target = _free_place(folder / arrival.category / arrival.folder, arrival.file)
    note = target.with_name(f"{target.name}{_REASON}")
    with atomic_file(note) as temporary:
        text = f"{arrival.name}: {reason}\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    try:
        move_whole(arrival.file, target, staging=folder)
    except BaseException:
        note.unlink()
        raise


def _free_place(folder: Path, file: Path) -> Path:
    stem, suffix = file.stem, file.suffix[:20]
    while len(os.fsencode(f"{stem}{suffix}")) > _LONGEST_NAME:
        stem = stem[:-1]
    target = folder / f"{stem}{suffix}"
    number = 1
    while os.path.lexists(target):
        target = folder / f"{stem}-{number}{suffix}"
        number += 1
    return target
