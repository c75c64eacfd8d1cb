"""The image-set checks on their own, outside any flow."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stillwatch.flows.image_sets import chosen_categories, version_images
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import examine_category
from stillwatch.tasks.html import Thumbnails
from stillwatch.tasks.validation.page import write_page
from stillwatch.tasks.validation.report import ValidationReport
from stillwatch.tasks.validation.task import page_path, validate_manifest


@dataclass(frozen=True)
class ValidatedCategory:
    """A report and the page that shows it."""

    report: ValidationReport
    page: Path


def validate_categories(
    settings: Settings,
    *,
    root: Path | None,
    categories: list[str] | None,
    say: Callable[[str], None],
) -> list[ValidatedCategory]:
    """Version the image set, check its categories and write a page for each.

    Raises:
        StillwatchError: the image set cannot be versioned or a page cannot be written.
    """
    data = version_images(settings, root=root, categories=categories, say=say)
    results = []
    for name in chosen_categories(data, categories):
        examined = examine_category(data.categories[name], root=data.root, settings=settings)
        report = validate_manifest(
            examined.manifest, checks=settings.checks, calibration=settings.calibration
        )
        page = page_path(settings.state_dir, name)
        thumbnails = Thumbnails(
            examined.folder,
            white_level=examined.manifest.white_level,
            max_megapixels=settings.images.max_megapixels,
        )
        write_page(page, report, thumbnails, data_version=data.name)
        results.append(ValidatedCategory(report, page))
    return results
