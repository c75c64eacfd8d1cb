"""From scaled images to anomaly maps and image scores: tiles, network, stitching, combination."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillwatch.combination import Combination, LevelMaps, Map, combine
from stillwatch.errors import DetectorError
from stillwatch.geometry import Geometry
from stillwatch.images.decode import Pixels
from stillwatch.images.region import Region
from stillwatch.inference.resizing import Extent
from stillwatch.inference.stitching import Scorer, level_maps


@dataclass(frozen=True)
class ImageMapper:
    """Computes the anomaly maps of images of any shape; the image score is a map's maximum."""

    scorer: Scorer
    geometry: Geometry
    combination: Combination
    batch_size: int = 16
    """Tiles per call of the scorer; fewer where tiles have more than 256 × 256 pixels."""
    region: Region | None = None
    """Where defects count; None: everywhere."""

    def maps(self, images: Iterable[Pixels]) -> Iterator[Map]:
        """The anomaly map of each image, in their order.

        Args:
            images: scaled by ``geometry``, uint8 (h, w, 3) each; the shapes may differ.

        Returns:
            float32, one value for each 4 × 4 pixels of the scaled image, or finer where the
            method's finest level is.

        Raises:
            DetectorError: the scorer returns maps of another type or shape, or not finite numbers.
        """
        return (anomaly_map for anomaly_map, _ in self.maps_with_levels(images))

    def maps_with_levels(self, images: Iterable[Pixels]) -> Iterator[tuple[Map, LevelMaps]]:
        """As ``maps``, each with the level maps that were combined."""
        for levels in level_maps(self.scorer, self.geometry, images, self.batch_size):
            anomaly_map = combine(levels, self.combination)
            if not np.isfinite(anomaly_map).all():
                raise DetectorError(
                    "the anomaly maps are not finite numbers, so no verdict can be given: the "
                    "bundle's statistics of normals are unusable. Train the detector again."
                )
            yield self._within_region(anomaly_map, levels.extent), levels

    def _within_region(self, anomaly_map: Map, extent: Extent) -> Map:
        """The map, with its minimum wherever defects do not count."""
        if self.region is None:
            return anomaly_map
        rows, columns = anomaly_map.shape
        counted = self.region.resized(rows, columns, extent)
        return np.where(counted, anomaly_map, anomaly_map.min())

    def scores(self, images: Iterable[Pixels]) -> NDArray[np.float32]:
        """Image scores, float32 (N,)."""
        return np.array([anomaly_map.max() for anomaly_map in self.maps(images)], np.float32)
