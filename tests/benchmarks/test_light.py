"""How the accuracy benchmark tells the light from the defects."""

import numpy as np
import pytest
from benchmarks.light import against_calibration_auroc, in_light, same_light_auroc
from numpy.typing import NDArray

from stillwatch.combination import Combination, Level
from stillwatch.geometry import fitted
from stillwatch.inference.mapper import ImageMapper

NORMALS = np.full((3, 4, 4, 3), 120, np.uint8)
TEST = np.stack([np.full((4, 4, 3), 60, np.uint8), np.full((4, 4, 3), 120, np.uint8)])
TEST[1, 0, 0] = 240
"""A normal in half the light, and an anomaly in the training's."""


def distance_from_training(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """What a pixel differs from the training's brightness by."""
    return [np.abs(tiles.astype(np.float32).mean(axis=3) - 120)]


MAPPER = ImageMapper(distance_from_training, fitted([(4, 4)], 4), Combination(levels=(Level(),)))


def test_the_same_light_takes_away_what_is_only_dark() -> None:
    darker = np.full((1, 4, 4, 3), 30, np.uint8)
    images, anomalous = np.concatenate([TEST, darker]), np.array([False, True, False])
    assert same_light_auroc(MAPPER, images, anomalous, NORMALS) == 1


def test_an_image_comes_to_the_brightness_that_is_asked_for() -> None:
    assert in_light(TEST[0], 120).mean() == 120
    assert in_light(TEST[1], 255).max() == 255
    black = np.zeros((2, 2, 3), np.uint8)
    assert in_light(black, 120).max() == 0


def test_anomalies_against_calibration_normals() -> None:
    scores = np.array([0.9, 0.2, 0.6], np.float32)
    anomalous = np.array([False, True, True])
    figure = against_calibration_auroc(scores, anomalous, (0.1, 0.3, 0.5))
    assert figure == pytest.approx(4 / 6)
