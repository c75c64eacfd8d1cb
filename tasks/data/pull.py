"""A category's images on a machine that did not version them: pulled, just these, and decoded."""

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
    """The category with its files and its decoded images on this machine.

    On the machine that examined it, it is there already. Elsewhere its files come from the DVC
    remote into ``pulled/`` of the state folder, which keeps those that versions have in common
    once, and are decoded into the store. What is there from an earlier call is used again.

    Args:
        category: as it was examined where it was versioned.
        data: the data version that it belongs to.
        settings: this machine's state folder, image size and white level.

    Raises:
        WorkspaceError: the version was not pushed, or this machine cannot pull all of it.
        StorageError: the state folder cannot be written to, or the disk is full.
    """
    if data.host == socket.gethostname():
        return category
    version = category.version
    with exclusive(settings, f"pull-{version.name}", f"pulling the images of {version.name}"):
        root = settings.state_dir / "pulled" / version.digest
        if not root.exists():
            _pull(version, _remote_of(data), root, settings)
        store = store_of(version, settings)
        if store.exists():
            mark_used(store)
        else:
            with suppress(LayoutError):  # a file that is gone: the sentence below says what to do
                examine_category(version, root=root, settings=settings)
    if not store.exists():
        raise WorkspaceError(
            f"{root / version.name}: what was pulled is not what the data version {data.name} "
            f"lists, or cannot be decoded. Delete {root.parent} and run again, it is pulled anew."
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
        dvc.deliver(version.files, folder / version.name)


def _remote_of(data: DataVersion) -> DvcRemote:
    if data.remote is None:
        raise WorkspaceError(
            f"{data.root}: the data version {data.name} is on {data.host} only. Push it to a DVC "
            f"remote that {socket.gethostname()} reaches, too."
        )
    return data.remote
