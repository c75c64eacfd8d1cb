"""Find images that show the same: frames of one part at rest, which count as one image.

The near duplicates of ``statistics`` are judged by what is usual in the category. That cannot tell
where all images show the same, so that this module compares pixels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillwatch.images.manifest import THUMBNAIL_SIDE, ImageFacts
from stillwatch.text import printable

LARGEST_DIFFERENCE = 1.0
"""Root mean square difference of two thumbnails that show the same, without their means, in grey
values. Frames with sensor noise of 4 grey values differ by 0.5, other parts by 2.5 or more (screws,
commutators and fabric of public data sets)."""
LARGEST_SHARE = 0.2
"""The same as a share of the thumbnail's standard deviation: images of an even surface, which
differ by their noise alone, are not taken for one image."""


@dataclass(frozen=True)
class Scenes:
    """What the images of a category show."""

    scene_of: dict[str, str]
    """Path of a train image -> path of the first train image that shows the same."""
    train_images: int
    """With different bytes."""

    @property
    def different(self) -> int:
        """The number of train images that show something else: the effective number of images."""
        return len(set(self.scene_of.values()))

    def sentence(self) -> str | None:
        """What is shown more than once; None if each image shows something else."""
        if self.different == self.train_images:
            return None
        path, times = Counter(self.scene_of.values()).most_common(1)[0]
        return (
            f"of {self.train_images} train images only {self.different} differ: {times} show the "
            f"same as {printable(path)}"
        )

    def counted(self, rows: Sequence[ImageFacts]) -> dict[str, str | None]:
        """Path -> what an image shows; None for a calibration image like one that is learnt from.

        Such an image does not count: the false-alarm bound is about new parts.
        """
        shown = {row.path: self.scene_of.get(row.path, row.md5) for row in rows}
        learnt = {shown[row.path] for row in rows if row.part in ("train", "validation")}
        return {
            row.path: None
            if row.part == "calibration" and shown[row.path] in learnt
            else shown[row.path]
            for row in rows
        }


def calibration_repeats(rows: Sequence[ImageFacts]) -> int:
    """Number of calibration images that do not count: they show what another or a learnt one does.

    Args:
        rows: of the whole category.
    """
    counted = find_scenes(rows).counted(rows)
    shown = [counted[row.path] for row in rows if row.part == "calibration"]
    return len(shown) - len({one for one in shown if one is not None})


def find_scenes(rows: Sequence[ImageFacts]) -> Scenes:
    """Compare each train image with those before it; files with equal bytes count once."""
    distinct = {row.md5: row for row in reversed(rows) if row.split == "train" and row.thumbnail}
    train = list(reversed(distinct.values()))
    scene_of: dict[str, str] = {}
    # The first image of each scene, its thumbnail without the mean, and the mean of the squares.
    firsts: list[str] = []
    centred = np.empty((len(train), THUMBNAIL_SIDE**2), np.float32)
    powers = np.empty(len(train), np.float32)
    for row in train:
        values = np.frombuffer(bytes.fromhex(row.thumbnail or ""), np.uint8).astype(np.float32)
        values -= values.mean()
        power, count = float(np.mean(values**2)), len(firsts)
        if count:
            # The mean of (a - b)², without an array of all differences.
            products = centred[:count] @ values / values.size
            squares = powers[:count] + power - 2 * products
            nearest = int(squares.argmin())
            if squares[nearest] <= min(LARGEST_DIFFERENCE**2, LARGEST_SHARE**2 * power):
                scene_of[row.path] = firsts[nearest]
                continue
        centred[count], powers[count] = values, power
        firsts.append(row.path)
        scene_of[row.path] = row.path
    by_md5 = {row.md5: scene_of[row.path] for row in train}
    scene_of |= {row.path: by_md5[row.md5] for row in rows if row.md5 in by_md5}
    return Scenes(scene_of, len(train))
