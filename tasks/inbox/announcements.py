"""Admitted files that are not announced yet, kept in the state folder across killed runs."""

from collections.abc import Iterable
from pathlib import Path

from stillwatch.files import storage_errors


def add(category: str, path: str, state_dir: Path) -> None:
    """Record that a file is about to be admitted; ``path`` is POSIX, in the category's folder."""
    file = _folder(state_dir) / category
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as records:
            records.write(f"{path}\n")


def unannounced(state_dir: Path) -> dict[str, list[str]]:
    """Category -> sorted paths of its unannounced files, of which some may not exist."""
    return {
        file.name: sorted({*file.read_text(encoding="utf-8", errors="replace").splitlines()})
        for file in sorted(_folder(state_dir).glob("*"))
    }


def forget(categories: Iterable[str], state_dir: Path) -> None:
    """Remove the records of these categories."""
    for category in categories:
        file = _folder(state_dir) / category
        with storage_errors(file):
            file.unlink(missing_ok=True)


def _folder(state_dir: Path) -> Path:
    return state_dir / "unannounced"
