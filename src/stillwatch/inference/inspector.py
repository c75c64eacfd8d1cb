"""Inspect images with a bundle: scores, verdicts, anomaly maps and masks.

The only inference path: calibration, evaluation, the command line and the service all use it. A
``Scorer`` computes the level maps, so that nothing here needs torch.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.bundle import REGION_FILE, Bundle
from stillwatch.calibration import Verdict, p_values, verdict
from stillwatch.combination import LevelMaps
from stillwatch.errors import DetectorError, ImageError
from stillwatch.files import bytes_md5
from stillwatch.images.decode import (
    MAX_MEGAPIXELS,
    decode_image,
    read_bytes,
    read_shape,
    scale_image,
)
from stillwatch.images.layout import IMAGE_SUFFIXES, images_below
from stillwatch.images.region import Region
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.resizing import (
    WHOLE,
    Extent,
    resize_map,
    resize_mask_keeping_rejection,
)
from stillwatch.inference.stitching import Scorer


@dataclass(frozen=True)
class InspectedImage:
    """The result for one image."""

    score: float
    """Maximum of the map, exact in float32."""
    p_value: float
    """Conformal p-value in [1/(n+1), 1]."""
    verdict: Verdict
    anomaly_map: NDArray[np.float32]
    """(h, w), raw: one value for each 4 × 4 pixels of the scaled image, or finer."""
    mask: NDArray[np.bool_]
    """(h, w), map > reject threshold: non-empty exactly when the verdict is reject."""
    extent: Extent = WHOLE
    """Height and width of what the map covers, relative to the image."""
    note: str | None = None
    """Why the false-alarm rates do not hold for this image, in one sentence; such an image never
    passes."""

    def map_at(self, height: int, width: int) -> NDArray[np.float32]:
        """The map at an image's own size; the pixel at the maximum keeps the maximum."""
        return resize_map(self.anomaly_map, height, width, self.extent)

    def mask_at(self, height: int, width: int) -> NDArray[np.bool_]:
        """The mask at an image's own size; it has a pixel exactly when the verdict is reject."""
        return resize_mask_keeping_rejection(self.mask, height, width, self.extent)


@dataclass(frozen=True)
class DecodedFile:
    """An image file that has been read for inspection."""

    md5: str
    """MD5 of the file's bytes, hexadecimal; the identifier in the manifest and in DVC."""
    pixels: NDArray[np.uint8]
    """(height, width, 3), upright, at the file's own size."""
    image: NDArray[np.uint8]
    """(h, w, 3), scaled as the bundle's training images were."""


@dataclass(frozen=True)
class InspectedFile:
    """An inspected image file, with the pixels of the file."""

    md5: str
    """As of ``DecodedFile``."""
    pixels: NDArray[np.uint8]
    """(height, width, 3), upright, at the file's own size."""
    image: InspectedImage


class Inspector:
    """Gives images a score, a p-value, a verdict and a mask.

    Args:
        bundle: with geometry, combination and thresholds.
        scorer: as ``open_scorer`` gives it.
        batch_size: tiles per call of the scorer.
        max_megapixels: larger images are refused without decoding.
    """

    def __init__(
        self,
        bundle: Bundle,
        scorer: Scorer,
        batch_size: int = 16,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        self.bundle = bundle
        self.max_megapixels = max_megapixels
        self.mapper = ImageMapper(
            scorer, bundle.info.geometry, bundle.info.combination, batch_size, _region(bundle)
        )

    @property
    def region(self) -> Region | None:
        """Where defects count: that of the bundle, unless another one was set."""
        return self.mapper.region

    @region.setter
    def region(self, region: Region | None) -> None:
        self.mapper = replace(self.mapper, region=region)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Decode and scale an image file as the bundle's training images were: (h, w, 3)."""
        return self.decode(read_bytes(path), name=str(path)).image

    def decode(self, data: bytes, *, name: str) -> DecodedFile:
        """Decode and scale an image file's bytes as the bundle's training images were.

        Args:
            data: the file's bytes.
            name: what errors call the file.
        """
        info = self.bundle.info
        decoded = decode_image(
            data, name=name, white_level=info.white_level, max_megapixels=self.max_megapixels
        )
        if self.region is not None:
            self.region.require_size(decoded.height, decoded.width, name=name)
        return DecodedFile(
            md5=bytes_md5(data),
            pixels=decoded.pixels,
            image=scale_image(decoded.pixels, info.geometry),
        )

    def inspect(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[InspectedImage]:
        """Inspect scaled images, uint8 (h, w, 3) each, in their order.

        Raises:
            DetectorError: an image is not scaled as the bundle's, or the maps are unusable.
        """
        for anomaly_map, levels in self.mapper.maps_with_levels(map(self._checked, images)):
            yield self._judge(anomaly_map, levels)

    def inspect_file(self, path: Path) -> InspectedFile:
        """Inspect one image file."""
        file = self.decode(read_bytes(path), name=str(path))
        (inspected,) = self.inspect([file.image])
        return InspectedFile(file.md5, file.pixels, inspected)

    def _checked(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        geometry = self.bundle.info.geometry
        fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        if fits and geometry.box is not None:
            fits = geometry.scaled_shape(*image.shape[:2]) == image.shape[:2]
        if not fits:
            scaled = "" if geometry.box is None else f", scaled to fit into {geometry} pixels,"
            raise DetectorError(
                f"this bundle inspects uint8 images (h, w, 3){scaled} and was given "
                f"{image.dtype} {image.shape}. Read them with Inspector.read."
            )
        return image

    def _judge(self, anomaly_map: NDArray[np.float32], levels: LevelMaps) -> InspectedImage:
        calibration = self.bundle.info.calibration
        score = float(anomaly_map.max())
        result = verdict(score, calibration)
        note = self._why_not_calibrated(levels.height * levels.width)
        if note is not None and result == "pass":
            result = "review"
        (p_value,) = p_values(np.array([score], np.float32), calibration.scores).tolist()
        return InspectedImage(
            score=score,
            p_value=p_value,
            verdict=result,
            anomaly_map=anomaly_map,
            mask=anomaly_map > np.float32(calibration.reject.value),
            extent=levels.extent,
            note=note,
        )

    def _why_not_calibrated(self, pixels: int) -> str | None:
        largest = self.bundle.info.largest_image
        if pixels <= largest:
            return None
        return (
            f"the image has {pixels:,} pixels after scaling and no calibration image has more than "
            f"{largest:,}: the maximum of a larger map is higher, so the false-alarm rates do not "
            "hold"
        )


def _region(bundle: Bundle) -> Region | None:
    if bundle.info.region is None:
        return None
    return Region.load(bundle.folder / REGION_FILE)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Image files named by ``paths``: files as they are, folders searched to the bottom, sorted.

    Raises:
        ImageError: a path does not exist, or a folder holds no image.
    """
    return list(dict.fromkeys(file for path in paths for file in _images_under(path)))


def ensure_one_readable(files: Iterable[Path]) -> None:
    """Refuse image files none of which has a readable header, before a detector is loaded.

    Raises:
        ImageError: that of the first file.
    """
    first = None
    for file in files:
        try:
            read_shape(file, max_megapixels=math.inf)
        except ImageError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def _images_under(path: Path) -> list[Path]:
    if not path.exists():
        raise ImageError(f"{path}: no such file or folder. Check the path.")
    if not path.is_dir():
        return [path]
    images = images_below(path)
    if not images:
        raise ImageError(
            f"{path}: holds no image. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return images
