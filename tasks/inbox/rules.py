"""What a file must be to come into the image set, whoever brings it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from stillwatch.errors import ImageError
from stillwatch.files import file_md5
from stillwatch.images.decode import decode_image, decode_mask
from stillwatch.images.layout import FEEDBACK, IMAGE_SUFFIXES, unsafe_name
from stillwatch.settings import Settings


class Refusal(Exception):  # noqa: N818
    """Why a file is not admitted, for a person: words that go on from the file's name."""


def plain_bytes(file: Path, *, place: str) -> bytes:
    """The bytes of a file that may lie under this name in the image set.

    Args:
        file: what is read.
        place: POSIX, the folder of its label and its name.

    Raises:
        Refusal: the name is unsafe, or it is no file that can be read.
    """
    unsafe = unsafe_name(place)
    if unsafe:
        raise Refusal(f"its name {unsafe}")
    if file.is_symlink() or not file.is_file():
        raise Refusal("is not a plain file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise Refusal(f"cannot be read ({error.strerror})") from error


def check_image(data: bytes, *, name: str, settings: Settings) -> tuple[int, int]:
    """Refuse what is no whole image, too large or too small.

    Args:
        data: the file's bytes.
        name: of the file.
        settings: largest image and least side.

    Returns:
        Width and height in pixels.

    Raises:
        Refusal: the image cannot be used.
    """
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise Refusal(f"does not end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    limit = settings.images.max_megapixels
    image = readable(lambda: decode_image(data, name=name, max_megapixels=limit))
    least = settings.checks.min_side
    if min(image.width, image.height) < least:
        raise Refusal(f"is {image.width}×{image.height} pixels; checks.min_side asks for {least}")
    return image.width, image.height


def check_mask(data: bytes, *, name: str, size: tuple[int, int], settings: Settings) -> None:
    """Refuse what is no whole image, does not fit its image or marks nothing.

    Args:
        data: the file's bytes.
        name: of the file.
        size: width and height of the mask's image in pixels.
        settings: largest image.

    Raises:
        Refusal: the mask cannot be used.
    """
    limit = settings.images.max_megapixels
    mask = readable(lambda: decode_mask(data, name=name, max_megapixels=limit))
    height, width = mask.shape
    if (width, height) != size:
        raise Refusal(
            f"is {width}×{height} pixels and its image {size[0]}×{size[1]}; save it again at the "
            "size of the image"
        )
    if not mask.any():
        raise Refusal("marks no pixel; draw the defect, or put its image into good if it has none")


T = TypeVar("T")


def readable(decode: Callable[[], T]) -> T:
    """What ``decode`` returns.

    Raises:
        Refusal: it raised an ``ImageError``.
    """
    try:
        return decode()
    except ImageError as error:
        # What is wrong, without the name that stands before it.
        raise Refusal(str(error).partition(": ")[2]) from error


def images_by_md5(category: Path) -> dict[str, str]:
    """The images that a category's folder has: md5 -> POSIX path in it."""
    files = [
        file
        for part in ("train", "test", FEEDBACK)
        for file in sorted((category / part).glob("*/*"))
        if file.is_file()
    ]
    return {file_md5(file): file.relative_to(category).as_posix() for file in files}


def distinct_name(file: Path, md5: str) -> str:
    """What a file is called where its own name is taken by other bytes."""
    return f"{file.stem}-{md5[:8]}{file.suffix}"
