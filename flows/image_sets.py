"""Finding or creating the workspace of an image set, and versioning the image set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillwatch.errors import LayoutError
from stillwatch.settings import Settings
from stillwatch.tasks.data.version import (
    DataVersion,
    ensure_categories_exist,
    import_and_version,
)
from stillwatch.tasks.data.workspace import (
    Workspace,
    find_workspace,
    managed_workspace,
    open_workspace,
)


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
    if not root.is_dir():
        raise LayoutError(f"{root}: no such folder. Name the folder that holds the categories.")
    workspace = find_workspace(root, settings)
    if workspace is not None:
        return ImageSetPlace(workspace, None)
    return ImageSetPlace(managed_workspace(settings.state_dir, root), root)


def version_images(
    settings: Settings,
    *,
    root: Path | None,
    categories: list[str] | None,
    say: Callable[[str], None],
) -> DataVersion:
    """Import ``root`` if it is outside a workspace, then version the image set; needs no flow.

    Args:
        settings: of all categories.
        root: as for ``place_of``.
        categories: which are imported; None: all of them.
        say: called with progress messages.

    Raises:
        StillwatchError: as ``ensure_categories_exist`` and ``import_and_version``.
    """
    place = place_of(settings, root)
    ensure_categories_exist(settings, place.images)
    return import_and_version(
        place.workspace, settings, root=place.imported_from, categories=categories, log=say
    )


def chosen_categories(data: DataVersion, categories: Sequence[str] | None) -> list[str]:
    """The categories of the request, or all categories, sorted.

    Raises:
        LayoutError: the image set has no category of that name.
    """
    known = sorted({*data.categories, *data.refused})
    unknown = sorted({*(categories or [])} - {*known})
    if unknown:
        raise LayoutError(
            f"{data.root}: has no category {', '.join(unknown)}. It has {', '.join(known)}."
        )
    return sorted(categories or known)
