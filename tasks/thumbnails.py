"""Small pictures inside a page: ``data:`` addresses, so that the page is one file."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from stillwatch.errors import ImageError
from stillwatch.images.decode import decode_image, decode_mask
from stillwatch.tasks.html import data_uri

LONGEST_SIDE = 128


class Thumbnails:
    """Thumbnails of one category's images and masks."""

    def __init__(self, folder: Path, *, white_level: int, max_megapixels: float) -> None:
        self.folder = folder
        self.white_level = white_level
        self.max_megapixels = max_megapixels

    def data_uri(self, path: str) -> str | None:
        """A JPEG of at most 128 pixels a side; None for a file that cannot be shown.

        Args:
            path: an image or a mask (below ``ground_truth``), relative to the category's folder.
        """
        try:
            data = (self.folder / path).read_bytes()
            if path.startswith("ground_truth/"):
                mask = decode_mask(data, name=path, max_megapixels=self.max_megapixels)
                pixels = mask.astype(np.uint8) * 255
            else:
                pixels = decode_image(
                    data,
                    name=path,
                    white_level=self.white_level,
                    max_megapixels=self.max_megapixels,
                ).pixels
        except (ImageError, OSError):
            return None
        thumbnail = Image.fromarray(pixels)
        thumbnail.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        encoded = BytesIO()
        thumbnail.save(encoded, "JPEG", quality=85)
        return data_uri(encoded.getvalue(), "image/jpeg")
