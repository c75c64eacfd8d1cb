"""Find and create workspaces, the git + DVC repositories of image sets; lock them for writing."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from stillwatch.errors import LayoutError, WorkspaceError
from stillwatch.files import atomic_folder, storage_errors
from stillwatch.images.layout import category_folders
from stillwatch.settings import Settings
from stillwatch.tasks.data.dvc_repository import DvcRepository, ensure_dvc, initialise_dvc, open_dvc
from stillwatch.tasks.data.git import commit_only, create_repository, ensure_work_tree, exclude
from stillwatch.tasks.locks import held
from stillwatch.text import unknown_name


@dataclass(frozen=True)
class Workspace:
    """A git + DVC repository with an image set."""

    root: Path
    """The repository's top folder, absolute."""
    image_set: str
    """Name of the folder in ``root`` that DVC tracks."""
    remote: str | None
    """Name of the DVC remote; None: the repository's default, else ``local_remote``."""
    local_remote: Path
    """Folder that is the DVC remote where the repository has no default."""

    @property
    def data(self) -> Path:
        """The image set's folder."""
        return self.root / self.image_set

    @property
    def dvc_file(self) -> Path:
        """The ``.dvc`` file of the image set; committed to git."""
        return self.root / f"{self.image_set}.dvc"

    @property
    def split_file(self) -> Path:
        """The assignment of images to train, validation and calibration; committed to git."""
        return self.root / f"{self.image_set}.split.json"


def open_workspace(settings: Settings) -> Workspace:
    """Open the workspace of the settings.

    Raises:
        WorkspaceError: git is missing, the folder is no git + DVC repository, or
            ``workspace.image_set`` is not the name of a folder directly in it.
    """
    chosen = settings.workspace
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", chosen.image_set):
        raise WorkspaceError(
            f"workspace.image_set: {chosen.image_set!r} must be the name of a folder directly in "
            "the workspace, without slashes."
        )
    root = chosen.path.resolve()
    ensure_work_tree(root)
    ensure_dvc(root)
    return Workspace(root, chosen.image_set, chosen.remote, _local_remote(settings.state_dir))


def find_workspace(root: Path, settings: Settings) -> Workspace | None:
    """The workspace with the image set ``root``; None if ``root`` is in no workspace.

    Raises:
        WorkspaceError: as ``open_workspace``.
    """
    root = root.resolve()
    chosen = settings.workspace
    if root == chosen.path.resolve() / chosen.image_set:
        return open_workspace(settings)
    if not (root.parent / ".dvc").is_dir() or not root.with_name(f"{root.name}.dvc").is_file():
        return None
    # The remote's name in the settings belongs to the workspace of the settings.
    here = chosen.model_copy(update={"path": root.parent, "image_set": root.name, "remote": None})
    return open_workspace(settings.model_copy(update={"workspace": here}))


def ensure_images(
    settings: Settings, root: Path | None, categories: Sequence[str] | None
) -> tuple[str, ...]:
    """Names of the categories that are asked for; refuse an image set without one of them.

    Args:
        settings: of all categories.
        root: an image set, or None for the settings' own.
        categories: which must be there; None: any.

    Raises:
        LayoutError: ``root`` is not a folder, or there is no category or none of such a name.
        WorkspaceError: the workspace cannot be used, or has no images.
    """
    if root is None:
        folder = image_folder(open_workspace(settings))
    else:
        _ensure_folder(root)
        folder = root
    known = list(category_folders(folder))
    for name in categories or ():
        if name not in known:
            raise LayoutError(f"{folder}: {unknown_name('category', name, known)}.")
    return tuple(categories or known)


def _ensure_folder(root: Path) -> None:
    """Refuse an image set that is no folder.

    Raises:
        LayoutError: it is none.
    """
    if not root.is_dir():
        raise LayoutError(f"{root}: no such folder. Name the folder that holds the categories.")


@dataclass(frozen=True)
class ImageSetPlace:
    """Where an image set is versioned."""

    workspace: Workspace
    imported_from: Path | None
    """The root that is imported into the workspace first; None if it is in the workspace."""

    @property
    def images(self) -> Path:
        """The folder of the categories."""
        return self.imported_from or self.workspace.data


def place_of(settings: Settings, root: Path | None) -> ImageSetPlace:
    """Find the workspace of ``root``; a root outside any workspace gets a managed one.

    Args:
        root: an image set, or None for the settings' own.

    Raises:
        LayoutError: ``root`` is not a folder.
        WorkspaceError: the workspace cannot be used.
    """
    if root is None:
        return ImageSetPlace(open_workspace(settings), None)
    _ensure_folder(root)
    workspace = find_workspace(root, settings)
    if workspace is not None:
        return ImageSetPlace(workspace, None)
    return ImageSetPlace(managed_workspace(settings.state_dir, root), root)


def image_folder(workspace: Workspace) -> Path:
    """The folder of a workspace's image set.

    Raises:
        WorkspaceError: it is missing or empty.
    """
    if not workspace.data.is_dir() or not any(workspace.data.iterdir()):
        raise WorkspaceError(
            f"{workspace.data}: there are no images. Add some with 'stillwatch add CATEGORY "
            "IMAGES', or name an image set with --root. If there were some before, 'stillwatch "
            "data checkout HEAD' restores them."
        )
    return workspace.data


def managed_workspace(state_dir: Path, root: Path) -> Workspace:
    """The workspace under ``state_dir`` for imports of ``root``; created if it is missing.

    Its folder is ``workspaces/<name>-<first 8 hex digits of the SHA-256 of root's path>``.

    Raises:
        WorkspaceError: git is missing, or the folder is there but is no workspace.
        StorageError: it cannot be written.
    """
    source = root.resolve()
    name = re.sub(r"[^a-z0-9_-]+", "-", source.name.lower()).strip("-") or "root"
    digest = hashlib.sha256(str(source).encode()).hexdigest()[:8]
    folder = state_dir.resolve() / "workspaces" / f"{name}-{digest}"
    workspace = Workspace(folder, "data", None, _local_remote(state_dir))
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not folder.exists():
            with atomic_folder(folder) as unfinished:
                create_workspace(
                    unfinished, (f"/{workspace.image_set}",), message=f"workspace for {source}"
                )
    if not (folder / ".dvc").is_dir():
        raise WorkspaceError(
            f"{folder}: is not the workspace that stillwatch created for {source}. Move this "
            "folder away; stillwatch creates a new one."
        )
    ensure_work_tree(folder)
    return workspace


def create_workspace(
    folder: Path, ignored: Sequence[str], *, message: str, files: Sequence[str] = ()
) -> None:
    """Make a folder a git + DVC repository with one commit.

    Args:
        folder: without ``.git``, ``.dvc``, ``.dvcignore`` and ``.gitignore``.
        ignored: the lines of ``.gitignore``.
        message: the first line of the commit's message.
        files: further files for the commit, relative to ``folder``.

    Raises:
        WorkspaceError: git is missing or failed.
    """
    create_repository(folder)
    initialise_dvc(folder)
    (folder / ".gitignore").write_text("".join(f"{line}\n" for line in ignored), encoding="utf-8")
    made = (".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore")
    commit_only(folder, (*made, *files), f"{message}\n\nMade by stillwatch.")


@contextmanager
def one_writer(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace's lock; log a warning while another process holds it."""
    file = workspace.root / ".dvc" / "tmp" / "stillwatch.lock"
    with held(file, f"waiting for another stillwatch that writes to {workspace.root} ..."):
        yield


@contextmanager
def writing(workspace: Workspace) -> Iterator[DvcRepository]:
    """Hold the workspace's lock and open its DVC repository.

    Raises:
        WorkspaceError: the repository cannot be opened.
    """
    ensure_work_tree(workspace.root)
    with (
        one_writer(workspace),
        open_dvc(
            workspace.root,
            workspace.data,
            remote=workspace.remote,
            local_remote=workspace.local_remote,
        ) as dvc,
    ):
        # Else DVC adds the folder to .gitignore, which would be one more file to commit.
        exclude(workspace.root, workspace.image_set)
        yield dvc


def _local_remote(state_dir: Path) -> Path:
    return state_dir.resolve() / "dvc-remote"
