"""The MD5 by which images are told apart and found again, as DVC does."""

import hashlib
from functools import partial
from pathlib import Path


def file_md5(file: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def bytes_md5(data: bytes) -> str:
    """Of these bytes, hexadecimal."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
