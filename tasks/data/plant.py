"""Make a plant: a folder with settings, a git + DVC repository, and the folders for images."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from stillwatch.errors import WorkspaceError
from stillwatch.files import storage_errors
from stillwatch.settings import Settings

SETTINGS_FILE = "params.yaml"
_TEMPLATE = Path(__file__).with_name("plant.yaml")
_DEFAULTS = Settings()
IMAGES = _DEFAULTS.workspace.image_set
INBOX = _DEFAULTS.inbox.path.name
TO_INSPECT = _DEFAULTS.inspection.path.name
_FILES = (".git", ".dvc", ".dvcignore", ".gitignore", SETTINGS_FILE)
"""In the order in which they are moved into place: what has no settings file is no plant yet."""
_FOLDERS = (IMAGES, INBOX, TO_INSPECT)


def make_plant(folder: Path) -> None:
    """Make a plant in a new folder, or in a folder that has no repository and no settings yet.

    Folders for images that are there already stay as they are.

    Raises:
        WorkspaceError: something in the folder is in the way, or git is missing.
        StorageError: the folder cannot be written to.
    """
    _ensure_free(folder)
    # It imports DVC, which takes a second.
    from stillwatch.tasks.data.workspace import create_workspace

    with storage_errors(folder), ExitStack() as undo:
        if not folder.exists():
            folder.mkdir(parents=True)
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".stillwatch-init.") as made:
            shutil.copyfile(_TEMPLATE, Path(made, SETTINGS_FILE))
            create_workspace(
                Path(made),
                (f"/{_DEFAULTS.state_dir}/", f"/{IMAGES}", f"/{INBOX}/", f"/{TO_INSPECT}/"),
                message="plant",
                files=(SETTINGS_FILE,),
            )
            for name in _FOLDERS:
                (folder / name).mkdir(exist_ok=True)
            for name in _FILES:
                Path(made, name).rename(folder / name)
        undo.pop_all()


def _ensure_free(folder: Path) -> None:
    taken = [name for name in _FILES if (folder / name).exists()]
    taken += [name for name in _FOLDERS if (folder / name).is_file()]
    if taken:
        raise WorkspaceError(
            f"{folder.absolute()}: has {', '.join(taken)} already. Name a new or an empty folder."
        )
