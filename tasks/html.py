"""HTML pages: the templates, and pictures as ``data:`` addresses, so that a page is one file."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from stillwatch.errors import ImageError
from stillwatch.images.decode import decode_image, read_bytes
from stillwatch.images.manifest import Manifest
from stillwatch.images.masks import read_mask
from stillwatch.images.region import read_region
from stillwatch.inference.overlays import REJECT_OUTLINE, draw_outline
from stillwatch.settings import Settings
from stillwatch.text import printable

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "reports" / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["printable"] = printable

LONGEST_SIDE = 128
"""Of a thumbnail, in pixels."""
REGION_SIDE = 480
"""Longest side of a picture of the region of interest."""


def printable_lines(cell: str) -> tuple[str, str]:
    """The first line of a table cell, and its second line, which is shown as small print."""
    text, _, small = cell.partition("\n")
    return printable(text), printable(small)


TEMPLATES.filters["printable_lines"] = printable_lines


def data_uri(content: bytes, media_type: str) -> str:
    """A picture as a ``data:`` address."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


class Thumbnails:
    """Thumbnails of one category's images and masks."""

    def __init__(self, folder: Path, *, white_level: int, max_megapixels: float) -> None:
        self.folder = folder
        self.white_level = white_level
        self.max_megapixels = max_megapixels

    @classmethod
    def of(cls, manifest: Manifest, folder: Path, settings: Settings) -> Self:
        """Thumbnails of the images of a manifest."""
        return cls(
            folder,
            white_level=manifest.white_level,
            max_megapixels=settings.images.max_megapixels,
        )

    def data_uri(self, path: str) -> str | None:
        """A JPEG of at most 128 pixels a side; None for a file that cannot be shown.

        Args:
            path: an image or a mask (below ``ground_truth``), relative to the category's folder.
        """
        try:
            if path.startswith("ground_truth/"):
                mask = read_mask(self.folder / path, max_megapixels=self.max_megapixels)
                pixels = mask.astype(np.uint8) * 255
            else:
                pixels = self._pixels(path)
        except ImageError:
            return None
        return _jpeg_uri(_small(pixels, LONGEST_SIDE))

    def region_uri(self, path: str, region_file: str) -> str | None:
        """A JPEG of at most 480 pixels a side, dark outside the region of interest.

        Args:
            path: an image, relative to the category's folder.
            region_file: the category's ``region.png`` or ``ignore.png``.

        Returns:
            None for a file that cannot be shown.
        """
        try:
            pixels = _small(self._pixels(path), REGION_SIDE)
            region = read_region(self.folder, (region_file,), max_megapixels=self.max_megapixels)
        except ImageError:
            return None
        if region is None:
            return None
        counted = region.resized(*pixels.shape[:2])
        dark = np.where(counted[..., None], pixels, pixels // 3)
        return _jpeg_uri(draw_outline(dark, counted, REJECT_OUTLINE))

    def _pixels(self, path: str) -> NDArray[np.uint8]:
        data = read_bytes(self.folder / path)
        decoded = decode_image(
            data, name=path, white_level=self.white_level, max_megapixels=self.max_megapixels
        )
        return decoded.pixels


def _small(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    return np.asarray(picture)


def _jpeg_uri(pixels: NDArray[np.uint8]) -> str:
    encoded = BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=85)
    return data_uri(encoded.getvalue(), "image/jpeg")
