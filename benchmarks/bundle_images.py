"""Image files as the detector in a bundle sees them."""

from collections.abc import Sequence
from pathlib import Path

from stillwatch.bundle import BundleInfo
from stillwatch.images.decode import Pixels, read_image
from stillwatch.images.layout import ImageFile


def read_pixels(folder: Path, files: Sequence[ImageFile], info: BundleInfo) -> list[Pixels]:
    """The files in a category's folder, scaled as the bundle's training images: (h, w, 3) each."""
    return [read_image(folder / x.path, info.geometry, white_level=info.white_level) for x in files]
