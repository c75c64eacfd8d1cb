"""Versioning and checking an image set."""

from collections.abc import Sequence
from pathlib import Path

from stillwatch.errors import LayoutError
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import examine_category
from stillwatch.tasks.data.version import (
    DataVersion,
    ensure_categories_exist,
    import_and_version,
)
from stillwatch.tasks.data.workspace import place_of
from stillwatch.tasks.validation.report import ValidationReport
from stillwatch.tasks.validation.task import page_path, validate_images
from stillwatch.text import unknown_name


def version_images(
    settings: Settings,
    *,
    root: Path | None,
    categories: list[str] | None,
) -> DataVersion:
    """Import ``root`` if it is outside a workspace, then version the image set; needs no flow.

    Args:
        root: as for ``place_of``.
        categories: which are imported; None: all of them.

    Raises:
        StillwatchError: as ``ensure_categories_exist`` and ``import_and_version``.
    """
    place = place_of(settings, root)
    ensure_categories_exist(settings, place.images)
    return import_and_version(
        place.workspace, settings, root=place.imported_from, categories=categories
    )


def check_category(
    data: DataVersion, name: str, settings: Settings
) -> tuple[ValidationReport, Path]:
    """Check the images of a category and write the page about them; needs no flow.

    Returns:
        What the checks found, and the page.

    Raises:
        StillwatchError: as ``examine_category``.
    """
    own = settings.for_category(name)
    examined = examine_category(data.categories[name], root=data.root, settings=own)
    page = page_path(own.state_dir, name)
    report = validate_images(
        examined.manifest,
        folder=examined.folder,
        page=page,
        settings=own,
        data_version=data.name,
    )
    return report, page


def chosen_categories(data: DataVersion, categories: Sequence[str] | None) -> list[str]:
    """The categories of the request, or all categories, sorted.

    Raises:
        LayoutError: the image set has no category of that name.
    """
    known = sorted({*data.categories, *data.refused})
    unknown = sorted({*(categories or [])} - {*known})
    if unknown:
        raise LayoutError(f"{data.root}: {unknown_name('category', unknown[0], known)}.")
    return sorted(categories or known)
