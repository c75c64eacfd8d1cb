"""HTML pages: the templates, and pictures as ``data:`` addresses, so that a page is one file."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from stillwatch.errors import ImageError
from stillwatch.images.decode import decode_image, decode_mask
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
