"""Find which file is the mask of which image, by their names.

Paths are POSIX, relative to the category's folder: ``<section>/<label>/<file>``, where a file may
lie in sub-folders of its label. Capitals and the composition of accents do not matter.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

MASK_ENDING = "_mask"
"""Of the masks that stillwatch writes."""
_WORD = "(masks?|gt|labels?|seg|annotations?|ground_?truth)"
_MASK_NAME = re.compile(rf"(?P<image>.+)[_ .-]{_WORD}", re.IGNORECASE)
_MASK_FOLDER = re.compile(_WORD, re.IGNORECASE)


def folded(name: str) -> str:
    """A name without the differences that file systems make: capitals, composition of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def image_of_mask(name: str) -> str | None:
    """The stem of the image whose mask has this file name, such as ``000_GT.bmp``; else None."""
    match = _MASK_NAME.fullmatch(PurePosixPath(name).stem)
    return match and match["image"]


def is_mask_folder(name: str) -> bool:
    """Whether a folder of this name, such as ``masks``, holds masks."""
    return _MASK_FOLDER.fullmatch(name) is not None


def separate_masks(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The images of one folder, and the masks that lie beside them.

    A mask lies in a sub-folder such as ``masks``, or is named after an image of its folder.
    """
    keys = {_key(_below_label(path)) for path in paths}
    images: list[str] = []
    masks: list[str] = []
    for path in paths:
        below = _below_label(path)
        image = image_of_mask(below.name)
        beside = image is not None and _key(below.with_name(f"{image}{below.suffix}")) in keys
        (masks if beside or _without_mask_folders(below) != below else images).append(path)
    return images, masks


def pair_masks(images: Sequence[str], masks: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Find the mask of each image.

    Args:
        images: of one label.
        masks: those that may belong to them.

    Returns:
        Image -> its mask, which is a folder where the image has a folder of masks; and the masks
        that fit no image, more than one image, or an image that has another mask.
    """
    images_of: dict[str, list[str]] = defaultdict(list)
    for image in images:
        images_of[_key(_below_label(image))].append(image)
    mask_of: dict[str, str] = {}
    stray = []
    for mask in masks:
        fits = [(key, whole) for key, whole in _image_keys(mask) if key in images_of]
        found, path = (images_of[fits[0][0]], fits[0][1]) if fits else ([], mask)
        if len(found) == 1 and mask_of.setdefault(found[0], path) == path:
            continue
        stray.append(mask)
    return mask_of, stray


def _image_keys(mask: str) -> Iterator[tuple[str, str]]:
    """The keys that the image of a mask may have, each with the path of the whole mask."""
    below = _without_mask_folders(_below_label(mask))
    image = image_of_mask(below.name)
    if image is not None:
        yield _key(below.with_name(f"{image}{below.suffix}")), mask
    yield _key(below), mask
    if below.parent.name:
        yield _folded_path(below.parent), PurePosixPath(mask).parent.as_posix()


def _below_label(path: str) -> PurePosixPath:
    return PurePosixPath(*PurePosixPath(path).parts[2:])


def _without_mask_folders(below: PurePosixPath) -> PurePosixPath:
    folders = [part for part in below.parts[:-1] if not is_mask_folder(part)]
    return PurePosixPath(*folders, below.name)


def _key(below: PurePosixPath) -> str:
    return _folded_path(below.parent / below.stem)


def _folded_path(path: PurePosixPath) -> str:
    return folded(path.as_posix())
