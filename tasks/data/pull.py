"""Pull and decode one category's images on a machine that did not version them."""

import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from stillwatch.errors import LayoutError, WorkspaceError
from stillwatch.files import atomic_folder, storage_errors
from stillwatch.images.store import mark_used
from stillwatch.settings import Settings
from stillwatch.tasks.data.dvc_repository import DvcRemote, initialise_dvc, open_pulled
from stillwatch.tasks.data.examine import ExaminedCategory, examine_category, store_of
from stillwatch.tasks.data.version import CategoryVersion, DataVersion
from stillwatch.tasks.locks import exclusive


def category_here(
    category: ExaminedCategory, data: DataVersion, settings: Settings
) -> ExaminedCategory:
    """Make a category's files and decoded images available on this machine.

    On the machine that versioned the images, nothing is done. On others, the files are pulled from
    the DVC remote into ``pulled/`` of the state folder and decoded into the store; files that
    versions share are kept once, and a second call uses the files of the first.

    Args:
        category: as examined on the machine that versioned it.
        settings: of the category, with this machine's state folder.

    Raises:
        WorkspaceError: this machine cannot pull all files.
        StorageError: the state folder cannot be written to, or the disk is full.
    """
    if data.host == socket.gethostname():
        return category
    version = category.version
    with exclusive(settings, f"pull-{version.name}", f"pulling the images of {version.name}"):
        root = settings.state_dir / "pulled" / version.digest
        if not root.exists():
            _pull(version, data.remote, root, settings)
        store = store_of(version, settings)
        if store.exists():
            mark_used(store)
        else:
            with suppress(LayoutError):  # a file is missing: the error below names the remedy
                examine_category(version, root=root, settings=settings)
    if not store.exists():
        raise WorkspaceError(
            f"{root / version.name}: the pulled files differ from those of the data version "
            f"{data.name}, or cannot be decoded. Delete {root.parent} and run again: the files are "
            "then pulled again."
        )
    return replace(category, folder=root / version.name, store=store)


def _pull(version: CategoryVersion, remote: DvcRemote, root: Path, settings: Settings) -> None:
    repository = root.parent
    with (
        exclusive(settings, "pull", "making the folder for pulled images"),
        storage_errors(repository),
    ):
        if not (repository / ".dvc").exists():
            repository.mkdir(parents=True, exist_ok=True)
            initialise_dvc(repository, in_git=False)
    with open_pulled(repository, remote) as dvc, atomic_folder(root) as folder:
        dvc.link_files(version.files, folder / version.name)
