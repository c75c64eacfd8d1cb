"""Decode image files, for training, inspection and serving alike. Needs no torch.

Every function that reads or decodes a file raises ``ImageError`` where the file cannot be used.
"""

import errno
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.ExifTags import Base as Tag
from PIL.ImageFile import ImageFile as PillowFile

from stillwatch.errors import ImageError, ImageTooLargeError, UnknownFormatError
from stillwatch.geometry import Geometry, Shape

MAX_MEGAPIXELS = 200.0
"""Default of ``images.max_megapixels``."""

Pixels = NDArray[np.uint8]
Samples = NDArray[np.uint8] | NDArray[np.uint16]

_PNG = b"\x89PNG\r\n\x1a\n"
_EMPTY_IDAT = bytes(4) + b"IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
# Texts and colour profiles of up to 64 MB; Pillow refuses the whole image from 1 MB on.
PngImagePlugin.MAX_TEXT_CHUNK = 2**26
PngImagePlugin.MAX_TEXT_MEMORY = 2**28
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""A TIFF's photometric interpretation -> its channels without extra ones."""
_WHITE_IS_ZERO = 0
"""Photometric interpretation; Pillow inverts such samples of up to 8 bits."""
# Not Pillow's Image.open: its size limit is global in the process, and it only warns.
_FORMATS: tuple[tuple[bytes, type[PillowFile]], ...] = (
    (_PNG, PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
    (b"II+\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0+", TiffImagePlugin.TiffImageFile),
)
_COLOUR_THAT_PILLOW_CUTS_TO_8_BITS = ("RGB", "RGBA", "RGBX", "LA")
_TURNS: dict[int, Callable[[Samples], Samples]] = {
    2: lambda samples: samples[:, ::-1],
    3: lambda samples: samples[::-1, ::-1],
    4: lambda samples: samples[::-1],
    5: lambda samples: samples.swapaxes(0, 1),
    6: lambda samples: samples.swapaxes(0, 1)[:, ::-1],
    7: lambda samples: samples[::-1, ::-1].swapaxes(0, 1),
    8: lambda samples: samples.swapaxes(0, 1)[::-1],
}
"""EXIF orientation -> operation that turns the image upright."""
_COPIED_ROWS = 256
_PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@dataclass(frozen=True)
class DecodedImage:
    """The pixels of an image file, and facts about the file."""

    pixels: NDArray[np.uint8]
    """(H, W, 3), upright as far as EXIF can be read; grey is replicated, alpha dropped, 16 bits
    scaled to 8."""
    width: int
    height: int
    mode: str
    """Pillow's name of the file's own pixels: L, RGB, RGBA, P, CMYK, 1, I;16, RGB;16, RGBA;16."""
    peak: int
    """Largest sample in the file, before any scaling."""
    above_white: tuple[int, int] | None = None
    """x and y of the largest sample, if it is above the white level."""
    pages: int = 1
    """Of the file; the largest one was decoded."""


def decode_image(
    data: bytes,
    *,
    name: str,
    white_level: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> DecodedImage:
    """Decode one PNG, JPEG, BMP or TIFF (its largest page), strictly: a damaged file is refused.

    Args:
        data: the file's bytes.
        name: what errors call the file.
        white_level: sample of a 16-bit image that becomes 255 (larger ones too); None: the
            smallest usual bit depth that holds the image's own peak. 8-bit images ignore it.
        max_megapixels: a larger image is refused from its header, without decoding.

    Raises:
        UnknownFormatError: not of these formats.
        ImageTooLargeError: more than ``max_megapixels``.
        ImageError: empty, truncated or damaged, several pages of the largest size, or channels that
            are neither grey, colour nor alpha.
    """
    samples, mode, pages = decode_samples(data, name, max_megapixels)
    peak = int(samples.max())
    above_white = None
    if samples.dtype == np.uint16:
        if white_level and peak > white_level:
            y, x = np.unravel_index(samples.argmax(), samples.shape)[:2]
            above_white = int(x), int(y)
        samples = _scale_table(white_level or white_level_of(peak))[samples]
    pixels = np.stack([samples] * 3, axis=2) if samples.ndim == 2 else samples
    height, width = pixels.shape[:2]
    bytes_of_pixels = np.require(pixels, np.uint8, ["C", "W"])
    return DecodedImage(bytes_of_pixels, width, height, mode, peak, above_white, pages)


def resize_image(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8 (H, W, 3) to (height, width, 3), bilinear with antialiasing (Pillow)."""
    if pixels.shape[:2] == (height, width):
        return pixels
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)


def scale_image(pixels: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Scale uint8 (H, W, 3) as a category's images are scaled: uint8 (h, w, 3)."""
    return resize_image(pixels, *geometry.scaled_shape(*pixels.shape[:2]))


def read_image(
    path: Path,
    geometry: Geometry,
    *,
    white_level: int | None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> NDArray[np.uint8]:
    """Read, decode and scale one file to uint8 (h, w, 3); see ``decode_image``."""
    decoded = decode_image(
        read_bytes(path), name=str(path), white_level=white_level, max_megapixels=max_megapixels
    )
    return scale_image(decoded.pixels, geometry)


def read_shape(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Shape:
    """Height and width of an image file's upright image, from its header alone."""
    with _errors_named(str(path)), path.open("rb") as file:
        return _shape(file, str(path), max_megapixels)


def orientation_of(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> int:
    """The EXIF orientation of an image file, 1 to 8, from its header alone; 1 where it has none."""
    with _errors_named(str(path)), path.open("rb") as file:
        return _orientation(_open(_without_pixels(file), str(path), max_megapixels))


def turned_upright(samples: Samples, orientation: int) -> Samples:
    """Turn samples, (H, W) or (H, W, 3), upright by their EXIF orientation."""
    turn = _TURNS.get(orientation)
    return turn(samples) if turn else samples


def shape_of(data: bytes, *, name: str, max_megapixels: float = MAX_MEGAPIXELS) -> Shape:
    """Height and width of an image file's upright image, from its header alone; see decode_image.

    Args:
        data: the file's bytes.
        name: what errors call the file.
        max_megapixels: a larger image is refused.
    """
    with _errors_named(name):
        return _shape(BytesIO(data), name, max_megapixels)


def white_level_of(peak: int) -> int:
    """Largest sample of the smallest usual bit depth (8, 10, 12, 14, 16) that holds ``peak``."""
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if peak < 2**bits)


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file."""
    with _errors_named(str(path)):
        return path.read_bytes()


def peak_of_16_bit(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> int | None:
    """Largest sample of a 16-bit image file; None for 8 bits, of which only the header is read.

    A sample counts where it is the median of its 3 × 3 neighbours: a dead pixel or line of the
    sensor, which may have any value, does not.
    """
    name = str(path)
    with _errors_named(name), path.open("rb") as file:
        raw_mode = _raw_mode(_open(file, name, max_megapixels))
    if ";16" not in raw_mode and not raw_mode.startswith("I"):
        return None
    samples, _mode, _pages = decode_samples(read_bytes(path), name, max_megapixels)
    if samples.dtype != np.uint16:
        return None
    import cv2  # slow to import

    return int(cv2.medianBlur(np.ascontiguousarray(samples), 3).max())


def decode_samples(data: bytes, name: str, max_megapixels: float) -> tuple[Samples, str, int]:
    """Upright samples (H, W) or (H, W, 3) as the file has them, uint8 or uint16; mode and pages."""
    with _errors_named(name):
        image = _open(BytesIO(data), name, max_megapixels)
        if isinstance(image, PngImagePlugin.PngImageFile):
            # Decoding does not check the checksums, and an image cannot be used after verify.
            PngImagePlugin.PngImageFile(BytesIO(data)).verify()
        kind, _, depth = _raw_mode(image).partition(";")
        mode = f"{kind};16" if depth.startswith("16") else str(image.mode)
        image.load()
        cut = depth.startswith("16") and kind in _COLOUR_THAT_PILLOW_CUTS_TO_8_BITS
        samples = _decode_wide_colour(data, image.tell()) if cut else _samples_of(image, name)
        if not isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow turns these upright
            samples = turned_upright(samples, _orientation(image))
        elif image.tag_v2.get(Tag.PhotometricInterpretation) == _WHITE_IS_ZERO:
            samples = ~samples if samples.dtype == np.uint16 else samples
    return samples, mode, getattr(image, "n_frames", 1)


def _open(file: BinaryIO, name: str, max_megapixels: float) -> PillowFile:
    """Read the header of an image, and raise if the image must not be decoded."""
    start = file.read(8)
    file.seek(0)
    if not start:
        raise ImageError(f"{name}: the file is empty; copy it again from its source or remove it.")
    opener = next((opener for magic, opener in _FORMATS if start.startswith(magic)), None)
    if opener is None:
        raise UnknownFormatError(
            f"{name}: not a PNG, JPEG, BMP or TIFF image, whatever its name says; convert it to "
            "one of these or remove it."
        )
    if _PILLOW_FILTER not in warnings.filters:
        # Not undone: restoring filters from several threads at once would mix them up.
        warnings.filterwarnings("ignore", module=r"PIL\.")
    image = _opened_at_largest_page(opener, file, name)
    width, height = image.size
    if width * height == 0:
        raise ImageError(f"{name}: has no pixels ({width}×{height}); remove the file.")
    if width * height > max_megapixels * 1e6:
        raise ImageTooLargeError(
            f"{name}: {width}×{height} pixels are more than the {max_megapixels:g} megapixels "
            "allowed; reduce the image, or raise the setting images.max_megapixels."
        )
    return image


def _opened_at_largest_page(opener: type[PillowFile], file: BinaryIO, name: str) -> PillowFile:
    try:
        image = opener(file)
    except SyntaxError as error:
        if "unknown pixel mode" not in str(error):
            raise
        raise _unread_pixels(name, file) from error
    sizes = [image.size]
    for page in range(1, getattr(image, "n_frames", 1)):
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            image.seek(page)
        sizes.append(image.size)
    areas = [width * height for width, height in sizes]
    largest = areas.index(max(areas))
    if areas.count(areas[largest]) > 1:
        raise ImageError(
            f"{name}: has {len(sizes)} pages, several of them of {sizes[largest][0]}×"
            f"{sizes[largest][1]} pixels, and nobody can tell which one is meant; save that page "
            "as a file of its own."
        )
    if image.tell() != largest:
        image.seek(largest)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _has_unread_channels(image):
        raise _unread_pixels(name, file)
    return image


def _has_unread_channels(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether channels would be dropped that need not be alpha, such as infra-red."""
    colours = _COLOURS.get(image.tag_v2.get(Tag.PhotometricInterpretation, 1), 4)
    extra = image.tag_v2.get(Tag.SamplesPerPixel, 1) - colours
    alpha_is_unsure = colours == 1 and image.tag_v2.get(Tag.ExtraSamples) == (0,)
    return bool(extra > 1 or (extra == 1 and alpha_is_unsure))


def _unread_pixels(name: str, file: BinaryIO) -> ImageError:
    """The refusal of a TIFF, with the pixels of its first page."""
    file.seek(0)
    header = file.read(16)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header if header[2] == 43 else header[:8])
    file.seek(tags.next)
    tags.load(file)
    channels = tags.get(Tag.SamplesPerPixel, 1)
    bits = "/".join(map(str, sorted(set(tags.get(Tag.BitsPerSample, (1,))))))
    return ImageError(
        f"{name}: has {channels} channels of {bits} bits in an arrangement that is not read "
        f"(photometric interpretation {tags.get(Tag.PhotometricInterpretation)}); save it as "
        "grey or RGB with 8 or 16 bits, without other channels."
    )


def _shape(file: BinaryIO, name: str, max_megapixels: float) -> Shape:
    image = _open(_without_pixels(file), name, max_megapixels)
    width, height = image.size
    if not isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow's size is upright there
        stored = np.broadcast_to(np.uint8(0), (height, width))
        height, width = turned_upright(stored, _orientation(image)).shape
    return height, width


def _without_pixels(file: BinaryIO) -> BinaryIO:
    """A PNG's header and metadata, which may stand behind its pixels; another file as it is."""
    signature = file.read(len(_PNG))
    if signature != _PNG:
        file.seek(0)
        return file
    chunks = [signature]
    while len(start := file.read(8)) == 8:
        length = int.from_bytes(start[:4], "big") + 4  # with the checksum
        if start[4:] == b"IDAT":
            file.seek(length, os.SEEK_CUR)
        else:
            chunks.append(start + file.read(length))
    return BytesIO(b"".join([*chunks, _EMPTY_IDAT]))


def _raw_mode(image: PillowFile) -> str:
    """Pillow's name of a PNG's or TIFF's samples, such as ``RGB;16B``; "" for other formats."""
    if not isinstance(image, PngImagePlugin.PngImageFile | TiffImagePlugin.TiffImageFile):
        return ""
    arguments = image.tile[0].args
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _samples_of(image: PillowFile, name: str) -> Samples:
    mode = image.mode
    if mode in ("L", "RGB"):
        return _array_of(image)
    if mode == "LA":
        return _array_of(image)[..., 0]
    if mode.startswith("I;16"):
        return _array_of(image).astype(np.uint16, copy=False)
    if mode == "I":
        wide = _array_of(image)
        if wide.min() >= 0 and wide.max() <= 65535:
            return wide.astype(np.uint16)
    if mode in ("I", "F"):
        raise ImageError(
            f"{name}: has samples that are not whole numbers from 0 to 65535; save it with 8 or "
            "16 bits per channel."
        )
    # A palette may have transparency, which a conversion to RGB would blend in.
    target = "L" if mode == "1" else "RGBA" if mode in ("P", "PA", "RGBA") else "RGB"
    converted = _array_of(image.convert(target))
    return converted[..., :3] if target == "RGBA" else converted


def _array_of(image: Image.Image) -> NDArray[Any]:
    """The samples of an image, copied a few rows at a time.

    ``np.asarray`` needs the memory of the array twice, and gives an array that is read-only.
    """
    pixel = np.asarray(image.crop((0, 0, 1, 1)))
    samples = np.empty((image.height, image.width, *pixel.shape[2:]), pixel.dtype)
    for top in range(0, image.height, _COPIED_ROWS):
        bottom = min(top + _COPIED_ROWS, image.height)
        samples[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return samples


def _decode_wide_colour(data: bytes, page: int) -> Samples:
    import cv2  # slow to import; only these rare files need it

    encoded = np.frombuffer(data, np.uint8)
    if page:
        _done, pages = cv2.imdecodemulti(encoded, cv2.IMREAD_UNCHANGED)
        samples = pages[page]
    else:
        samples = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16 or samples.ndim != 3:
        raise ValueError("its 16-bit colours cannot be read")
    colours: Samples = samples[..., 2::-1]
    return colours


def _orientation(image: PillowFile) -> int:
    try:
        # A PNG's own getexif would decode the pixels.
        orientation = Image.Image.getexif(image).get(Tag.Orientation)
    except Exception:  # the pixels may be fine although the metadata are damaged
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Turn what opening a file and Pillow on damaged data raise into an ``ImageError``."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Pillow's own OSErrors have no strerror; a damaged file makes it seek to an invalid place.
        if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:
            raise ImageError(
                f"{name}: cannot be read ({error.strerror}); check that it exists and may be read."
            ) from error
        raise ImageError(
            f"{name}: the image is damaged or cut short ({error}); copy it again from its source "
            "or remove it."
        ) from error


@lru_cache(maxsize=4)
def _scale_table(white_level: int) -> NDArray[np.uint8]:
    levels = np.arange(65536, dtype=np.float64) * (255 / white_level)
    return np.minimum(np.rint(levels), 255).astype(np.uint8)
