"""Read the files of one category once: the manifest of facts and the store of decoded pixels."""

import math
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.errors import ImageError, LayoutError
from stillwatch.geometry import Geometry
from stillwatch.images.decode import read_shape
from stillwatch.images.layout import FEEDBACK, Category, scan_category, section_of
from stillwatch.images.manifest import Manifest, build_manifest
from stillwatch.images.region import Region, read_region
from stillwatch.images.split import part_of
from stillwatch.images.store import ImageStore, StoreWriter, mark_used, store_folder, store_writer
from stillwatch.settings import ImageSettings, Settings
from stillwatch.tasks.data.version import CategoryVersion, category_digest
from stillwatch.text import printable, some_of


@dataclass(frozen=True)
class ExaminedCategory:
    """A category whose files have been read."""

    version: CategoryVersion
    folder: Path
    """The category's folder in the workspace."""
    manifest: Manifest
    store: Path
    """The folder of the decoded images; missing if a file was damaged."""
    geometry: Geometry | None
    """How the images are scaled; None if a file was damaged."""

    def read_region(self) -> Region | None:
        """Read the region of interest, of which the manifest has the facts; None without one.

        Raises:
            ImageError: the file cannot be used, which ``validate`` has found before.
        """
        facts = self.manifest.region
        if facts is None:
            return None
        if facts.error is not None:
            raise ImageError(facts.error)
        # The examination has already refused a file that is too large.
        return read_region(self.folder, (facts.path,), max_megapixels=math.inf)


def examine_category(
    version: CategoryVersion, *, root: Path, settings: Settings
) -> ExaminedCategory:
    """Read every file of a category once; decode the images if the store lacks them.

    Files that were added after the version was made are ignored. A store is kept only if every
    image can be decoded and has the md5 that DVC recorded.

    Args:
        settings: of the category.

    Raises:
        LayoutError: the folder is no longer a category, or a file of the version is gone.
        StorageError: the store cannot be written or the disk is full.
    """
    category = _as_versioned(scan_category(root / version.name), version)
    normals = {image.path: version.files[image.path] for image in category.train_normals}
    store = store_of(version, settings)
    with _new_store(store, category, settings.images) as filling:
        manifest = build_manifest(
            category,
            images=settings.images,
            expected_md5=version.files,
            parts=part_of(normals, version.assignment),
            group_pattern=settings.split.group_pattern,
            on_pixels=None if filling is None else filling.add,
        )
    if any(row.md5 != row.expected_md5 for row in manifest.rows):
        # The store's name has the digest of other files.
        shutil.rmtree(store, ignore_errors=True)
    if store.exists():
        mark_used(store)
    geometry = ImageStore.open(store).geometry if store.exists() else None
    return ExaminedCategory(version, root / version.name, manifest, store, geometry)


def _new_store(
    folder: Path, category: Category, settings: ImageSettings
) -> AbstractContextManager[StoreWriter | None]:
    """The writer of the category's store; None where the store is there, or cannot be complete."""
    if folder.exists():
        return nullcontext()
    try:
        shapes = {
            image.path: read_shape(
                category.folder / image.path, max_megapixels=settings.max_megapixels
            )
            for image in category.images
        }
    except ImageError:
        return nullcontext()  # the manifest names each file that cannot be read
    learnt = [shapes[image.path] for image in category.train_normals]
    if not learnt:
        return nullcontext()
    return store_writer(folder, shapes, settings.geometry(learnt))


def _as_versioned(category: Category, version: CategoryVersion) -> Category:
    # Nothing is locked meanwhile: an ingest may add files at any time.
    gone = [path for path in version.files if not (category.folder / path).exists()]
    if gone:
        raise LayoutError(
            f"{printable(str(category.folder))}: files of the data version are missing on disk "
            f"({some_of(list(map(printable, gone)))}). Restore them (stillwatch data checkout "
            "TAG), or run again if they were removed on purpose: the image set is then versioned "
            "without them."
        )
    listed = {*version.files, *(PurePosixPath(path).parent.as_posix() for path in version.files)}
    images = (
        replace(image, mask=image.mask if image.mask in listed else None)
        for image in category.images
        if image.path in version.files
    )
    return replace(
        category,
        images=tuple(images),
        region_files=tuple(file for file in category.region_files if file in version.files),
        stray_masks=tuple(file for file in category.stray_masks if file in version.files),
        unread_images=tuple(file for file in category.unread_images if file in version.files),
    )


def store_of(version: CategoryVersion, settings: Settings) -> Path:
    """The folder of a category's decoded images on this machine.

    Versions with the same images share a store, whatever their masks and region of interest.
    """
    images = {
        path: md5
        for path, md5 in version.files.items()
        if section_of(path) in ("train", "test", FEEDBACK)
    }
    return store_folder(
        settings.state_dir / "store",
        category=version.name,
        digest=category_digest(images),
        images=settings.images,
        white_level=settings.images.white_level or 0,  # 0: from the images' bit depth
    )


examine = task(name="examine", task_run_name="examine {version.name}", cache_policy=NO_CACHE)(
    examine_category
)
