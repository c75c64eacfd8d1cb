"""Inspect images with a bundle: scores, verdicts, anomaly maps and masks.

The only inference path: calibration, evaluation, the command line and the service all use it. A
``Scorer`` computes the maps, so that nothing here needs torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stillwatch.bundle import Bundle
from stillwatch.calibration import Verdict, p_values, verdict
from stillwatch.errors import DetectorError, ImageError
from stillwatch.files import bytes_md5
from stillwatch.images.decode import decode_image, read_bytes, resize_image
from stillwatch.images.layout import IMAGE_SUFFIXES


class Scorer(Protocol):
    """Computes raw anomaly maps in float32."""

    def __call__(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Map uint8 images (B, S, S, 3) to anomaly maps float32 (B, S, S)."""
        ...


@dataclass(frozen=True)
class InspectedImage:
    """The result for one image."""

    score: float
    """Maximum of the map, exact in float32."""
    p_value: float
    """Conformal p-value in [1/(n+1), 1]."""
    verdict: Verdict
    anomaly_map: NDArray[np.float32]
    """(S, S), raw."""
    mask: NDArray[np.bool_]
    """(S, S), map > reject threshold: non-empty exactly when the verdict is reject."""


@dataclass(frozen=True)
class DecodedFile:
    """An image file that has been read for inspection."""

    md5: str
    """MD5 of the file's bytes, hexadecimal; the identifier in the manifest and in DVC."""
    pixels: NDArray[np.uint8]
    """(height, width, 3), upright, at the file's own size."""
    image: NDArray[np.uint8]
    """(S, S, 3), as the bundle's training images were."""


@dataclass(frozen=True)
class InspectedFile:
    """An inspected image file, with the pixels of the file."""

    path: Path
    md5: str
    pixels: NDArray[np.uint8]
    """(height, width, 3), upright, at the file's own size."""
    image: InspectedImage

    @property
    def width(self) -> int:
        """Width of the file's image in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height of the file's image in pixels."""
        return int(self.pixels.shape[0])


class Inspector:
    """Gives images a score, a p-value, a verdict and a mask.

    Args:
        bundle: with the thresholds.
        scorer: as ``open_scorer`` gives it.
        batch_size: images per call of the scorer.
        max_megapixels: larger images are refused without decoding.
    """

    def __init__(
        self,
        bundle: Bundle,
        scorer: Scorer,
        batch_size: int = 16,
        max_megapixels: float = 100.0,
    ) -> None:
        self.bundle = bundle
        self.scorer = scorer
        self.batch_size = batch_size
        self.max_megapixels = max_megapixels

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Decode and resize an image file as the bundle's training images were: (S, S, 3)."""
        return self.decode(read_bytes(path), name=str(path)).image

    def decode(self, data: bytes, *, name: str) -> DecodedFile:
        """Decode and resize an image file's bytes as the bundle's training images were.

        Args:
            data: the file's bytes.
            name: what errors call the file.
        """
        info = self.bundle.info
        decoded = decode_image(
            data, name=name, white_level=info.white_level, max_megapixels=self.max_megapixels
        )
        return DecodedFile(
            md5=bytes_md5(data),
            pixels=decoded.pixels,
            image=resize_image(decoded.pixels, info.image_size),
        )

    def inspect(self, images: NDArray[np.uint8]) -> Iterator[InspectedImage]:
        """Inspect images uint8 (N, S, S, 3) in their order, one batch in memory at a time.

        Raises:
            DetectorError: the images are not of the bundle's size, or the maps are unusable.
        """
        size = self.bundle.info.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise DetectorError(
                f"this bundle inspects uint8 images of shape (N, {size}, {size}, 3) and was given "
                f"{images.dtype} {images.shape}. Read them with Inspector.read."
            )
        for maps in _maps(self.scorer, images, self.batch_size):
            yield from self._judge(maps)

    def inspect_file(self, path: Path) -> InspectedFile:
        """Inspect one image file."""
        file = self.decode(read_bytes(path), name=str(path))
        inspected = next(self.inspect(file.image[None]))
        return InspectedFile(path, file.md5, file.pixels, inspected)

    def _judge(self, maps: NDArray[np.float32]) -> Iterator[InspectedImage]:
        calibration = self.bundle.info.calibration
        scores = _scores(maps)
        masks = maps > np.float32(calibration.reject.value)
        for score, p_value, anomaly_map, mask in zip(
            scores.tolist(), p_values(scores, calibration.scores).tolist(), maps, masks, strict=True
        ):
            yield InspectedImage(score, p_value, verdict(score, calibration), anomaly_map, mask)


def score_images(
    scorer: Scorer, images: NDArray[np.uint8], batch_size: int = 16
) -> NDArray[np.float32]:
    """Image scores, float32 (N,), of uint8 images (N, S, S, 3), computed as in an inspection.

    Raises:
        DetectorError: the maps have the wrong type or shape or are not finite.
    """
    scores = [_scores(maps) for maps in _maps(scorer, images, batch_size)]
    return np.concatenate(scores) if scores else np.empty(0, np.float32)


def bilinear(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize a map (h, w) to (height, width): plain bilinear, half-pixel centres, edges kept."""
    if values.shape == (height, width):
        return values
    # Pillow's bilinear averages over an area when it shrinks, OpenCV's does not.
    resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    # Rounding must not raise a map above its maximum: the maximum could cross a threshold.
    return np.asarray(np.clip(resized, values.min(), values.max()), dtype=np.float32)


def resize_map(anomaly_map: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize an anomaly map to an image's own size without losing its maximum.

    ``resize_map(m, h, w) > t`` therefore has a pixel exactly when ``m > t`` has one, for every t.
    """
    resized = bilinear(anomaly_map, height, width).copy()
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    resized[
        (2 * row + 1) * height // (2 * anomaly_map.shape[0]),
        (2 * column + 1) * width // (2 * anomaly_map.shape[1]),
    ] = anomaly_map.max()
    return resized


def resize_mask_keeping_rejection(
    mask: NDArray[np.bool_], height: int, width: int
) -> NDArray[np.bool_]:
    """Resize a mask to an image's own size; it keeps a pixel exactly when ``mask`` has one."""
    cover = bilinear(mask.astype(np.float32), height, width)
    resized = cover >= 0.5
    if mask.any() and not resized.any():
        resized = resize_map(mask.astype(np.float32), height, width) >= 0.5
    return np.asarray(resized)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Image files named by ``paths``: files as they are, folders searched to the bottom, sorted.

    Raises:
        ImageError: a path does not exist, or a folder holds no image.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_images_under(path)))
    return list(found)


def _images_under(path: Path) -> list[Path]:
    if not path.exists():
        raise ImageError(f"{path}: no such file or folder. Check the path.")
    if not path.is_dir():
        return [path]
    images = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not images:
        raise ImageError(
            f"{path}: holds no image. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return images


def _maps(
    scorer: Scorer, images: NDArray[np.uint8], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(images), batch_size):
        batch = np.ascontiguousarray(images[start : start + batch_size])
        maps = scorer(batch)
        if maps.dtype != np.float32 or maps.shape != batch.shape[:3]:
            raise DetectorError(
                f"the scorer returned {maps.dtype} maps of shape {maps.shape} for images of shape "
                f"{batch.shape}; it must return float32 {batch.shape[:3]}. Fix the method."
            )
        # NaN is above no threshold: the image would pass.
        if not np.isfinite(maps).all():
            raise DetectorError(
                "the anomaly maps are not finite numbers, so no verdict can be given: the detector "
                "is broken. Train it again, with a smaller learning rate."
            )
        yield maps


def _scores(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(maps.reshape(len(maps), -1).max(axis=1), dtype=np.float32)
