"""What was admitted and not announced yet: notes in the state folder that outlive a killed run."""

from collections.abc import Iterable
from pathlib import Path

from stillwatch.files import storage_errors


def note(category: str, path: str, state_dir: Path) -> None:
    """Keep that a file is about to come into the image set.

    Args:
        category: its name.
        path: POSIX, where in the category's folder the file will lie.
        state_dir: the state folder.

    Raises:
        StorageError: the note cannot be written.
    """
    file = _folder(state_dir) / category
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as notes:
            notes.write(f"{path}\n")


def unannounced(state_dir: Path) -> dict[str, list[str]]:
    """The categories to be announced -> what came, sorted; a file that was noted may be missing."""
    return {
        file.name: sorted({*file.read_text(encoding="utf-8", errors="replace").splitlines()})
        for file in sorted(_folder(state_dir).glob("*"))
    }


def forget(categories: Iterable[str], state_dir: Path) -> None:
    """Remove the notes of these categories.

    Raises:
        StorageError: the state folder cannot be written to.
    """
    for category in categories:
        file = _folder(state_dir) / category
        with storage_errors(file):
            file.unlink(missing_ok=True)


def _folder(state_dir: Path) -> Path:
    return state_dir / "unannounced"
