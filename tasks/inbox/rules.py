"""The rules that a file must meet to be admitted to the image set."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from stillwatch.errors import ImageError
from stillwatch.files import file_md5
from stillwatch.images.decode import decode_image
from stillwatch.images.layout import FEEDBACK, IMAGE_SUFFIXES, existing_name, unsafe_name
from stillwatch.images.masks import doubt_about, read_mask
from stillwatch.settings import Settings


class Refusal(Exception):  # noqa: N818
    """Why a file is not admitted; the message is a phrase that follows the file's name."""


def plain_bytes(file: Path, *, place: str) -> bytes:
    """Read a plain file with a safe name.

    Args:
        place: POSIX, ``label/name`` in the image set.

    Raises:
        Refusal: the name is unsafe, or the file is not a plain readable file.
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
    """Refuse files that are no complete image, too large or too small.

    Returns:
        Width and height in pixels.
    """
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise Refusal(f"does not end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    limit = settings.images.max_megapixels
    image = _decoded(lambda: decode_image(data, name=name, max_megapixels=limit))
    least = settings.checks.min_side
    if min(image.width, image.height) < least:
        raise Refusal(f"is {image.width}×{image.height} pixels; checks.min_side asks for {least}")
    return image.width, image.height


def check_mask(file: Path, *, image: Path, size: tuple[int, int], settings: Settings) -> None:
    """Refuse masks that are no complete image, differ from their image in size or mark no pixel.

    Masks that mark more than a defect are refused, too (``masks.doubt_about``).

    Args:
        image: the file of the mask's image.
        size: width and height of the mask's image in pixels.
    """
    limit = settings.images.max_megapixels
    mask = _decoded(lambda: read_mask(file, image=image, max_megapixels=limit))
    height, width = mask.shape
    if (width, height) != size:
        raise Refusal(
            f"is {width}×{height} pixels and its image {size[0]}×{size[1]}; save it again at the "
            "size of the image"
        )
    if not mask.any():
        raise Refusal("marks no pixel; draw the defect, or put its image into good if it has none")
    doubt = doubt_about(mask)
    if doubt:
        raise Refusal(f"{doubt}; save it black where there is no defect and white where it is")


T = TypeVar("T")


def _decoded(decode: Callable[[], T]) -> T:
    """Call ``decode`` and turn an ``ImageError`` into a ``Refusal``."""
    try:
        return decode()
    except ImageError as error:
        # Without the file's name, which the message of an ImageError begins with.
        raise Refusal(str(error).partition(": ")[2]) from error


def images_by_md5(category: Path) -> dict[str, str]:
    """The images of a category's folder: md5 -> POSIX path relative to the folder."""
    files = [
        file
        for part in ("train", "test", FEEDBACK)
        for file in sorted((category / existing_name(category, part)).glob("*/**/*"))
        if file.is_file()
    ]
    return {file_md5(file): file.relative_to(category).as_posix() for file in files}


def distinct_name(file: Path, md5: str) -> str:
    """The name for a file whose own name is taken by a file with other bytes."""
    return f"{file.stem}-{md5[:8]}{file.suffix}"
