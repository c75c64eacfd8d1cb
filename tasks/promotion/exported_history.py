"""The history of a category's champions, read from a copy of MLflow's files: no server is asked."""

from pathlib import Path

from stillwatch.errors import TrackingError
from stillwatch.tasks.promotion.history import (
    OUTCOME_FILE,
    RECORD_FILE,
    HistoryEntry,
    outcome_in,
    record_in,
)


def exported_history(folder: Path, category: str) -> list[HistoryEntry]:
    """Every promotion and rollback of a category below a folder, newest first.

    Args:
        folder: a copy of the artifacts of the category's runs, or of anything above them.
        category: whose.

    Raises:
        TrackingError: there are none, or a record is damaged or cannot be read.
    """
    entries = []
    try:
        for file in sorted(folder.rglob(RECORD_FILE)):
            entry = _entry(file)
            if entry is not None and entry.record.category == category:
                entries.append(entry)
    except OSError as error:
        raise TrackingError(f"{error.filename}: cannot be read ({error.strerror}).") from error
    if not entries:
        raise TrackingError(
            f"{folder}: holds no {RECORD_FILE} of {category}. Name a copy of the folder in which "
            "MLflow keeps its artifacts."
        )
    return sorted(entries, key=lambda entry: entry.record.when, reverse=True)


def _entry(file: Path) -> HistoryEntry | None:
    """None: it was cut off while its record was written."""
    outcome = outcome_in(file.with_name(OUTCOME_FILE))
    record = record_in(file)
    if record is not None:
        run = file.parent.parent if file.parent.name == "artifacts" else file.parent
        return HistoryEntry(record, outcome or "open", run.name)
    if outcome == "done":
        raise TrackingError(
            f"{file}: damaged. Restore the file from a backup: a history with a gap proves nothing."
        )
    return None
