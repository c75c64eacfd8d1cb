"""Build the manifest: one row of facts per image; each file is read and decoded once."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from stillwatch.errors import ImageError
from stillwatch.files import bytes_md5, file_md5
from stillwatch.geometry import Shape
from stillwatch.images.appearance import brightness, grey_image, sharpness
from stillwatch.images.decode import (
    DecodedImage,
    decode_image,
    orientation_of,
    peak_of_16_bit,
    read_bytes,
    read_shape,
    white_level_of,
)
from stillwatch.images.layout import Category, ImageFile, mask_files
from stillwatch.images.masks import doubt_about, load_mask, smallest_defect
from stillwatch.images.region import Region, read_region
from stillwatch.images.split import group_of
from stillwatch.machine.threads import thread_count
from stillwatch.settings import ImageSettings

_MEGAPIXELS_AT_A_TIME = 200
"""Decoded by all threads; a megapixel needs about 12 MB."""
THUMBNAIL_SIDE = 32
"""Of ``ImageFacts.thumbnail``."""
_HASH_INPUT_SIDE = 64
_HASH_SIDE = 16


@dataclass(frozen=True)
class ImageFacts:
    """The facts about one image file; None where it cannot be decoded or has no mask."""

    path: str
    """POSIX, relative to the category's folder."""
    split: str
    """train, test or feedback, by folder (``ImageFile.split``)."""
    part: str
    """train, validation, calibration, duplicate, unassigned; test for test images, feedback for
    corrected anomalies."""
    defect_type: str
    """good for normals."""
    md5: str
    """Of the bytes read, hexadecimal; "" where the file cannot be read."""
    expected_md5: str | None = None
    """What the data version's file list says, if it was given."""
    width: int | None = None
    """In pixels, upright."""
    height: int | None = None
    mode: str | None = None
    """Of the file's pixels: L, RGB, I;16, ... (``DecodedImage.mode``)."""
    turned_from_region: int | None = None
    """EXIF orientation by which the image was turned, if it was and the category has a region of
    interest: the region is that of the upright image."""
    pages: int | None = None
    """Of the file; the facts are of the largest one."""
    mean: float | None = None
    """Of the grey image (Rec. 601 luma), 0 to 255."""
    std: float | None = None
    """Of the grey image, 0 to 127.5."""
    clipped: float | None = None
    """Share of samples, over all channels, that are 0 or 255: in [0, 1]."""
    sharpness: float | None = None
    """Variance of the Laplacian of the grey image, reduced to at most 512 pixels on a side."""
    hash: str | None = None
    """256-bit perceptual hash, 64 hexadecimal digits (``perceptual_hash``)."""
    thumbnail: str | None = None
    """The grey image at 32 × 32, row by row, two hexadecimal digits each."""
    above_white: tuple[int, int, int] | None = None
    """x, y and value of the largest sample, if it is above the white level of the category that
    was taken from the images."""
    decode_error: str | None = None
    """Why the file cannot be decoded, in one sentence."""
    mask: str | None = None
    """The path of the mask or of the folder of masks, relative to the category's folder."""
    mask_width: int | None = None
    mask_height: int | None = None
    mask_area: int | None = None
    """Marked pixels."""
    mask_area_in_region: int | None = None
    """Those of them that are in the region of interest; None without one of the mask's size."""
    smallest_defect: Shape | None = None
    """Height and width in pixels of the 8-connected marked region whose bounding box has the
    shortest side, of those that are in the region of interest at least in part."""
    mask_values: int | None = None
    """As of ``masks.Mask``."""
    mask_doubt: str | None = None
    """Why the mask is probably inverted or not a mask (``masks.doubt_about``)."""
    mask_error: str | None = None
    """Why the mask cannot be used: not decodable, or not the file that the version lists."""
    group: str | None = None
    """``group_of`` the path; None without a group pattern."""


@dataclass(frozen=True)
class RegionFacts:
    """The facts about a category's region of interest; None where the file cannot be used."""

    path: str
    """``region.png`` or ``ignore.png``."""
    digest: str | None
    """``Region.digest``."""
    width: int | None
    height: int | None
    share: float | None
    """Share of the pixels that count, in (0, 1]."""
    error: str | None
    """Why it cannot be used, in one sentence."""


@dataclass(frozen=True)
class Manifest:
    """The facts of a category's images."""

    category: str
    white_level: int
    """The sample that becomes 255 in this category's 16-bit images; 255 if it has none."""
    rows: tuple[ImageFacts, ...]
    """In the order of ``Category.images``."""
    region: RegionFacts | None = None
    """None: the category has none, and all pixels count."""
    stray_masks: tuple[str, ...] = ()
    """This and the next two: as of ``Category``."""
    unread_images: tuple[str, ...] = ()
    litter: tuple[str, ...] = ()


def build_manifest(
    category: Category,
    *,
    images: ImageSettings,
    expected_md5: Mapping[str, str] | None,
    parts: Mapping[str, str] | None,
    group_pattern: str | None = None,
    on_pixels: Callable[[str, NDArray[np.uint8]], None] | None = None,
) -> Manifest:
    """Read every image and mask of a category once, in threads.

    A file that cannot be read or decoded becomes a row that says why, never an exception.

    Args:
        category: what to read.
        images: white level and largest size.
        expected_md5: path -> md5 as the data version lists it, all files.
        parts: path -> part of the train normals (``split.part_of``).
        group_pattern: names the group of every image (``split.group_of``).
        on_pixels: called with (path, uint8 (H, W, 3) at full size) for every image that decodes,
            from the worker threads and in any order; what it raises ends the manifest.

    Raises:
        SettingsError: the group pattern is not a regular expression.
    """
    region, region_facts = _region(category, images.max_megapixels, expected_md5 or {})
    with ThreadPoolExecutor(_workers(category, images.max_megapixels)) as pool:
        reader = _Reader(
            folder=category.folder,
            white_level=images.white_level or _white_level(category, images, pool),
            white_level_is_theirs=images.white_level is None,
            max_megapixels=images.max_megapixels,
            expected_md5=expected_md5 or {},
            parts=parts or {},
            group_pattern=group_pattern,
            on_pixels=on_pixels,
            region=region,
        )
        rows = tuple(pool.map(reader.facts, category.images))
    return Manifest(
        category.name,
        reader.white_level,
        rows,
        region_facts,
        category.stray_masks,
        category.unread_images,
        category.litter,
    )


def perceptual_hash(grey: Image.Image) -> str:
    """256-bit perceptual hash of a grey (mode L) image, as 64 hexadecimal digits.

    The signs, relative to their median, of the 16 × 16 lowest frequencies of the DCT-II of the
    image at 64 × 64 (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
    2010, with 16 × 16 for 8 × 8).
    """
    small = grey.resize((_HASH_INPUT_SIDE, _HASH_INPUT_SIDE), Image.Resampling.BILINEAR)
    spectrum = dctn(np.asarray(small, np.float64), norm="ortho")[:_HASH_SIDE, :_HASH_SIDE]
    return np.packbits(spectrum > np.median(spectrum)).tobytes().hex()


def hash_distance_matrix(hashes: Sequence[str]) -> NDArray[np.int16]:
    """Hamming distances (N, N) of N > 0 perceptual hashes of equal length, in bits (0 to 256)."""
    codes = np.array([list(bytes.fromhex(one)) for one in hashes], np.uint8)
    signs = np.unpackbits(codes, axis=1).astype(np.float32) * 2 - 1
    return np.asarray((signs.shape[1] - signs @ signs.T) / 2, np.int16)


@dataclass(frozen=True)
class _Reader:
    """What the worker threads share, read-only."""

    folder: Path
    white_level: int
    white_level_is_theirs: bool
    """Whether it was taken from the images, not from the settings."""
    max_megapixels: float
    expected_md5: Mapping[str, str]
    parts: Mapping[str, str]
    group_pattern: str | None
    on_pixels: Callable[[str, NDArray[np.uint8]], None] | None
    region: Region | None

    def facts(self, image: ImageFile) -> ImageFacts:
        data, decoded, error = self._decode(image.path)
        if decoded is not None and self.on_pixels is not None:
            self.on_pixels(image.path, decoded.pixels)
        without_part = "unassigned" if image.split == "train" else image.split
        return ImageFacts(
            path=image.path,
            split=image.split,
            part=self.parts.get(image.path, without_part),
            defect_type=image.defect_type,
            md5="" if data is None else bytes_md5(data),
            expected_md5=self.expected_md5.get(image.path),
            decode_error=error,
            mask=image.mask,
            group=group_of(image.path, self.group_pattern),
            **(self._image_facts(image.path, decoded) if decoded else {}),
            **(self._mask_facts(image, decoded is not None) if image.mask else {}),
        )

    def _image_facts(self, path: str, decoded: DecodedImage) -> dict[str, Any]:
        """The fields of ``ImageFacts`` about the pixels of an image."""
        above_white = None
        if decoded.above_white is not None and self.white_level_is_theirs:
            above_white = (*decoded.above_white, decoded.peak)
        return {
            "width": decoded.width,
            "height": decoded.height,
            "mode": decoded.mode,
            "pages": decoded.pages,
            "turned_from_region": self._turned_from_region(path),
            "above_white": above_white,
            **_appearance(decoded.pixels),
        }

    def _turned_from_region(self, path: str) -> int | None:
        if self.region is None:
            return None
        orientation = orientation_of(self.folder / path, max_megapixels=self.max_megapixels)
        return None if orientation == 1 else orientation

    def _decode(self, path: str) -> tuple[bytes | None, DecodedImage | None, str | None]:
        data = None
        try:
            data = read_bytes(self.folder / path)
            decoded = decode_image(
                data,
                name=str(self.folder / path),
                white_level=self.white_level,
                max_megapixels=self.max_megapixels,
            )
        except ImageError as error:
            return data, None, str(error)
        return data, decoded, None

    def _mask_facts(self, image: ImageFile, image_decodes: bool) -> dict[str, Any]:
        """The fields of ``ImageFacts`` about the mask of an image."""
        path = self.folder / str(image.mask)
        try:
            read = load_mask(
                path,
                image=self.folder / image.path if image_decodes else None,
                max_megapixels=self.max_megapixels,
            )
        except ImageError as error:
            return {"mask_error": str(error)}
        mask = read.marked
        height, width = mask.shape
        counted = None
        if self.region is not None and self.region.counted.shape == mask.shape:
            counted = self.region.counted
        in_region = None if counted is None else int(np.count_nonzero(mask & counted))
        return {
            "mask_width": width,
            "mask_height": height,
            "mask_area": int(np.count_nonzero(mask)),
            "mask_area_in_region": in_region,
            "smallest_defect": smallest_defect(mask, counted),
            "mask_values": read.values,
            "mask_doubt": doubt_about(mask),
            "mask_error": next(filter(None, map(self._changed_mask, mask_files(path))), None),
        }

    def _changed_mask(self, file: Path) -> str | None:
        expected = self.expected_md5.get(file.relative_to(self.folder).as_posix())
        return _changed(str(file), file_md5(file), expected)


def _region(
    category: Category, max_megapixels: float, expected_md5: Mapping[str, str]
) -> tuple[Region | None, RegionFacts | None]:
    """The region of interest, if there is one that can be used, and the facts about it."""
    try:
        region = read_region(category.folder, category.region_files, max_megapixels=max_megapixels)
    except ImageError as error:
        return None, RegionFacts(category.region_files[0], None, None, None, None, str(error))
    if region is None:
        return None, None
    (path,) = category.region_files
    file = category.folder / path
    height, width = region.counted.shape
    changed = _changed(str(file), file_md5(file), expected_md5.get(path))
    return region, RegionFacts(path, region.digest, width, height, region.share, changed)


def _changed(name: str, md5: str, expected: str | None) -> str | None:
    if md5 == (expected or md5):
        return None
    return f"{name}: differs from the file that the data version lists; restore it."


def _workers(category: Category, max_megapixels: float) -> int:
    """Threads, so that they do not decode too many megapixels at a time."""

    def megapixels(image: ImageFile) -> float:
        try:
            height, width = read_shape(category.folder / image.path, max_megapixels=max_megapixels)
        except ImageError:
            return 0.0  # the manifest's row says why
        return height * width / 1e6

    with ThreadPoolExecutor(thread_count()) as pool:
        largest = max(pool.map(megapixels, category.images), default=0.0)
    return max(1, min(thread_count(), int(_MEGAPIXELS_AT_A_TIME / max(largest, 1.0))))


def _white_level(category: Category, images: ImageSettings, pool: ThreadPoolExecutor) -> int:
    """Of all the train normals, so that one image's brightness does not set its own scale."""

    def peak_of(image: ImageFile) -> int:
        try:
            peak = peak_of_16_bit(
                category.folder / image.path, max_megapixels=images.max_megapixels
            )
        except ImageError:
            return 0  # the manifest's row says why
        return peak or 0

    return white_level_of(max(pool.map(peak_of, category.train_normals), default=0))


def _appearance(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    grey = grey_image(pixels)
    counts = np.array(grey.histogram(), np.float64)
    mean = brightness(grey)
    samples = np.array(Image.fromarray(pixels).histogram(), np.int64).reshape(3, 256)
    thumbnail = grey.resize((THUMBNAIL_SIDE,) * 2, Image.Resampling.BILINEAR)
    return {
        "mean": mean,
        "std": float(np.sqrt(counts @ (np.arange(256) - mean) ** 2 / counts.sum())),
        "clipped": float((samples[:, 0] + samples[:, 255]).sum() / samples.sum()),
        "sharpness": sharpness(grey),
        "hash": perceptual_hash(grey),
        "thumbnail": thumbnail.tobytes().hex(),
    }
