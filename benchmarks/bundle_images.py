"""Image files as the detector in a bundle sees them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.bundle import BundleInfo
from stillwatch.images.decode import read_image
from stillwatch.images.layout import ImageFile


def read_pixels(folder: Path, files: Sequence[ImageFile], info: BundleInfo) -> NDArray[np.uint8]:
    """uint8 (N, S, S, 3) of the files in a category's folder."""
    side, white = info.image_size, info.white_level
    return np.stack([read_image(folder / x.path, size=side, white_level=white) for x in files])
