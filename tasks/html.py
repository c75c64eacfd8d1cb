"""What our HTML pages have in common: their templates, and pictures inside the page itself."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stillwatch.text import printable

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["printable"] = printable


def printable_lines(cell: str) -> tuple[str, str]:
    """A table cell's text and its small print."""
    text, _, small = cell.partition("\n")
    return printable(text), printable(small)


TEMPLATES.filters["printable_lines"] = printable_lines


def data_uri(content: bytes, media_type: str) -> str:
    """A picture as an address that holds it, so that the page is one file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
