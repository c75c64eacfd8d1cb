"""Anomaly maps and scores of whole images: seams, padding, and the region of interest."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_bundles import ALONE, TILED, brightness
from numpy.typing import NDArray
from toys import toy_teacher

from stillwatch.combination import Combination, Level
from stillwatch.detectors.patchcore import PatchCore
from stillwatch.errors import DetectorError
from stillwatch.geometry import Geometry, Shape, fitted, tiled
from stillwatch.images.decode import Pixels
from stillwatch.images.region import Region
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.settings import TrainingSettings
from stillwatch.training.loop import train

SEAM_TOLERANCE = 0.1
"""Of a score, where neighbouring tiles share 32 pixels."""
SMOOTHED = Combination(levels=(Level(),), sigma=4.0)


def dark(*shape: int) -> Pixels:
    return np.full((*shape, 3), 10, np.uint8)


def striped(seed: int) -> Pixels:
    """The same every 16 pixels, but for noise: 64 × 320 pixels."""
    rows, columns = np.mgrid[:64, :320]
    waves = 128 + 50 * np.sin(2 * np.pi * (rows + columns) / 16)
    noise = np.random.default_rng(seed).normal(0, 3, (64, 320, 3))
    return (waves[..., None] + [0, 10, -15] + noise).clip(0, 255).astype(np.uint8)


def with_defect(column: int) -> Pixels:
    """A square of noise of 12 pixels whose middle is at this column."""
    image = striped(50)
    noise = np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image[26:38, column - 6 : column + 6] = noise
    return image


@cache
def mapper_of(overlap: int) -> ImageMapper:
    """Tiles of 128 pixels along the stripes, seen by a network that pads with zeros."""
    geometry = Geometry(scale=1.0, box=None, tile=(64, 128), overlap=overlap)
    detector = PatchCore.build(toy_teacher(), {"coreset": 0.2})
    cpu = torch.device("cpu")
    summary = train(
        detector,
        train_images=[striped(seed) for seed in range(6)],
        validation_images=[striped(100)],
        geometry=geometry,
        settings=TrainingSettings(),
        device=cpu,
        checkpoint=None,
        on_epoch=lambda _: None,
    )
    return ImageMapper(TorchScorer(detector, cpu), geometry, summary.combination)


@pytest.mark.parametrize(("overlap", "middle", "seam"), [(32, 160, 112), (0, 64, 128)])
def test_a_defect_on_a_seam_scores_as_in_the_middle_of_a_tile_where_tiles_overlap(
    overlap: int, middle: int, seam: int
) -> None:
    mapper = mapper_of(overlap)
    normal, in_middle, on_seam = mapper.scores(
        [striped(60), with_defect(middle), with_defect(seam)]
    )
    assert in_middle > 3 * normal
    apart = abs(on_seam - in_middle) / in_middle
    if overlap:
        assert apart < SEAM_TOLERANCE
    else:
        assert apart > 2 * SEAM_TOLERANCE


def test_no_seam_shows_on_a_normal() -> None:
    (found,) = mapper_of(32).maps([striped(60)])
    middle = found[:, 40].max()  # column 160
    assert found[:, [24, 26, 28, 30, 48, 50, 52, 54]].max() < 2 * middle


@pytest.mark.parametrize("combination", [ALONE, SMOOTHED], ids=["plain", "smoothed"])
@given(st.tuples(st.integers(1, 100), st.integers(1, 100)), st.sampled_from([32, 64, 96]))
def test_padding_changes_neither_map_nor_score(
    combination: Combination, shape: Shape, side: int
) -> None:
    """Tiles that the image fits without padding, and tiles that it does not."""
    image = np.random.default_rng(0).integers(0, 200, (*shape, 3)).astype(np.uint8)
    exact = Geometry(scale=1.0, box=None, tile=tuple(-(-s // 32) * 32 for s in shape), overlap=0)
    larger = Geometry(scale=1.0, box=None, tile=(side, side), overlap=0)
    (expected,) = ImageMapper(brightness, exact, combination).maps([image])
    (found,) = ImageMapper(brightness, larger, combination).maps([image])
    assert found.shape == shape
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if combination is ALONE:
        np.testing.assert_array_equal(found, image[..., 0])


def coarse(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Levels at strides 4 and 16."""
    return [brightness(tiles)[0][:, ::stride, ::stride] for stride in (4, 16)]


@pytest.mark.parametrize("shape", [(5, 250), (250, 5), (33, 47), (64, 64), (1, 50)])
@pytest.mark.parametrize("network", [(32, 32), (64, 256)])
def test_a_map_has_a_value_for_each_4_pixels(shape: Shape, network: Shape) -> None:
    geometry = Geometry(scale=1.0, box=None, tile=network, overlap=0)
    combination = Combination(levels=(Level(), Level()), sigma=4.0)
    (found,) = ImageMapper(coarse, geometry, combination).maps([dark(*shape)])
    assert found.shape == (-(-shape[0] // 4), -(-shape[1] // 4))


def left_half(height: int, width: int) -> Region:
    counted = np.zeros((height, width), bool)
    counted[:, : width // 2] = True
    return Region(counted)


@pytest.mark.parametrize("combination", [ALONE, SMOOTHED], ids=["plain", "smoothed"])
@pytest.mark.parametrize("geometry", [fitted([(80, 144)], 72), TILED], ids=["fit", "tiles"])
def test_a_defect_outside_the_region_changes_nothing(
    geometry: Geometry, combination: Combination
) -> None:
    normal = dark(*geometry.scaled_shape(80, 144))
    normal[8:10, 10:12] = 60
    outside, inside = normal.copy(), normal.copy()
    outside[20:30, -20:-10] = 255
    inside[20:30, 10:20] = 255
    mapper = ImageMapper(brightness, geometry, combination, region=left_half(80, 144))
    plain, quiet, loud = mapper.maps([normal, outside, inside])
    np.testing.assert_array_equal(quiet, plain)
    assert loud.max() > 3 * plain.max()
    half = plain.shape[1] // 2
    assert (plain[:, half:] == plain.min()).all()
    np.testing.assert_array_equal(mapper.scores([outside]), mapper.scores([normal]))


def test_the_region_fits_each_images_map() -> None:
    """One region at the files' size, for images that are scaled to another."""
    image = dark(40, 72)
    image[:, 35], image[:, 36] = 100, 200
    mapper = ImageMapper(
        brightness, tiled([(80, 144)], 0.5, 64, 32), ALONE, region=left_half(80, 144)
    )
    assert mapper.scores([image]).tolist() == [100]


@pytest.mark.parametrize("turned", [False, True])
def test_a_region_lies_on_the_map_where_the_map_reaches_beyond_the_image(turned: bool) -> None:
    """41 pixels are 11 positions of 4 pixels; the region ends between positions 8 and 9."""
    image, counted = dark(41, 64), np.zeros((41, 64), bool)
    image[36:40, 4:8], image[32:36, 4:8] = 200, 100
    counted[:36] = True
    if turned:
        image, counted = image.swapaxes(0, 1), counted.T.copy()
    combination = Combination(levels=(Level(), Level(divisor=1e6)))
    geometry = tiled([(64, 64)], 1.0, 64, 0)
    mapper = ImageMapper(coarse, geometry, combination, region=Region(counted))
    assert mapper.scores([image]).round().tolist() == [100]


def test_a_map_that_the_combination_makes_infinite_is_refused() -> None:
    combination = Combination(levels=(Level(divisor=1e-38),))
    image = dark(32, 32)
    image[0, 0] = 255
    with pytest.raises(DetectorError, match="statistics of normals are unusable"):
        list(ImageMapper(brightness, fitted([(32, 32)], 32), combination).maps([image]))


def test_no_image_has_no_score() -> None:
    assert ImageMapper(brightness, TILED, ALONE).scores([]).shape == (0,)
