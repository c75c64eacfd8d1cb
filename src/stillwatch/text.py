"""Text for people: file names that are safe to print, and the nearest known name."""

import difflib
import re
from collections.abc import Sequence

CATEGORY_NAME = re.compile(r"[a-z0-9_-]+")
"""The whole name of a category: it is the name of a folder, an experiment and a model."""


def printable(text: str) -> str:
    """``text`` with backslashes, control characters and undecodable bytes as backslash escapes.

    A file name on Linux may be any bytes; JSON, HTML and data frames take text only.
    """
    return "".join(
        character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def is_text(name: str) -> bool:
    """Whether a file name is valid UTF-8."""
    return encodable(name) == name


def encodable(text: str) -> str:
    """``text`` with bytes that are not UTF-8, which a file name may have, as backslash escapes."""
    return text.encode(errors="backslashreplace").decode()


def some_of(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are: ``a, b, c and 4 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """Say that there is no such name, and name the nearest that there is.

    Args:
        kind: what the name should have named, such as ``category``.
        name: the unknown name.
        known: the names that there are.

    Returns:
        A clause without a full stop: ``unknown category 'pate' (did you mean 'plate'?)``.
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(known))}"
    return f"unknown {kind} '{name}' ({hint})"
