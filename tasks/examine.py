"""One category's images, each file read once: the manifest of facts and the store of pixels."""

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.images.layout import scan_category
from stillwatch.images.manifest import Manifest, build_manifest
from stillwatch.images.split import part_of
from stillwatch.images.store import StoreWriter, mark_used, store_folder
from stillwatch.settings import Settings
from tasks.version import CategoryVersion

OWN_WHITE_LEVEL = 0
"""Stands for the category's own bit depth in a store's name."""


@dataclass(frozen=True)
class ExaminedCategory:
    """A category whose files have been read."""

    version: CategoryVersion
    folder: Path
    """The category's folder in the workspace."""
    manifest: Manifest
    store: Path
    """Where its decoded images are, if every file was sound."""


def examine_category(
    version: CategoryVersion, *, root: Path, settings: Settings
) -> ExaminedCategory:
    """Read every file of a category once; decode what the store does not hold yet.

    A store is kept only if every image could be decoded and has the bytes that DVC recorded.

    Args:
        version: of the category.
        root: the image set's folder.
        settings: image size, white level, split and state folder.

    Raises:
        LayoutError: the folder is no longer a category.
        StorageError: the store cannot be written or the disk is full.
    """
    category = scan_category(root / version.name)
    normals = {image.path: version.files[image.path] for image in category.train_normals}
    store = store_of(version, settings)
    writer = (
        nullcontext()
        if store.exists()
        else StoreWriter(store, [image.path for image in category.images], settings.images.size)
    )
    with writer as filling:
        manifest = build_manifest(
            category,
            images=settings.images,
            expected_md5=version.files,
            parts=part_of(normals, version.assignment),
            group_pattern=settings.split.group_pattern,
            on_pixels=None if filling is None else filling.add,
        )
    if any(row.md5 != row.expected_md5 for row in manifest.rows):
        # These pixels are not what the digest in the store's name stands for.
        shutil.rmtree(store, ignore_errors=True)
    if store.exists():
        mark_used(store)
    return ExaminedCategory(version, root / version.name, manifest, store)


def store_of(version: CategoryVersion, settings: Settings) -> Path:
    """Where a machine keeps the decoded images of a category."""
    return store_folder(
        settings.state_dir / "store",
        category=version.name,
        digest=version.digest,
        size=settings.images.size,
        white_level=settings.images.white_level or OWN_WHITE_LEVEL,
    )


examine = task(name="examine", task_run_name="examine {version.name}", cache_policy=NO_CACHE)(
    examine_category
)
