"""The quarantine: what the inbox refused, with its layout, the reason beside each file."""

import os
from pathlib import Path

from stillwatch.files import atomic_file, move_whole
from stillwatch.settings import Settings
from stillwatch.tasks.inbox.arrivals import Arrival

_REASON = ".reason.txt"
_LONGEST_NAME = 200
"""In bytes, of the 255 that a name may have: room for a number, the reason's ending and what the
name of a temporary file adds."""


def quarantine(settings: Settings) -> Path:
    """The folder of refused files; it has the inbox's layout."""
    return settings.state_dir / "quarantine"


def refuse(arrival: Arrival, reason: str, settings: Settings) -> None:
    """Move a file or folder into the quarantine, its reason first.

    A name that is too long for the reason's to fit beside it is cut; the reason has all of it.

    Args:
        arrival: what is refused.
        reason: goes on from its name.
        settings: name the state folder.

    Raises:
        StorageError: the quarantine cannot be written to, or the disk is full.
        OSError: this arrival cannot be moved, for whatever other reason.
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
