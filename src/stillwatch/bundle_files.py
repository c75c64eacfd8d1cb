"""What a bundle's files are checked by, so that a damaged one is never used."""

import hashlib
from pathlib import Path

from stillwatch.errors import BundleError
from stillwatch.sections import Section

MAKE_AGAIN = "Copy the bundle again from where it was made, or make it again."


class FileInfo(Section):
    """Digest and size of a file."""

    sha256: str
    bytes: int


def file_info(path: Path) -> FileInfo:
    """Digest and size of a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileInfo(sha256=digest, bytes=path.stat().st_size)


def check_file(path: Path, expected: FileInfo) -> None:
    """Refuse a file that is not the one that was written.

    Raises:
        BundleError: it is missing, truncated or exchanged.
    """
    try:
        found = file_info(path)
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}), and a bundle is nothing without it. "
            f"{MAKE_AGAIN}"
        ) from error
    if found.bytes < expected.bytes:
        raise BundleError(
            f"{path}: truncated, has {found.bytes} of {expected.bytes} bytes. {MAKE_AGAIN}"
        )
    if found.sha256 != expected.sha256:
        raise BundleError(
            f"{path}: its sha256 is {found.sha256[:12]}… and bundle.json says "
            f"{expected.sha256[:12]}…, so it is damaged or exchanged. {MAKE_AGAIN}"
        )
