import numpy as np
import pytest

from stillwatch.combination import LevelMaps
from stillwatch.evaluation.closeups import CloseUp, close_up
from stillwatch.inference.inspector import InspectedImage


def inspected(height: int, width: int, peak: tuple[int, int]) -> InspectedImage:
    """An image whose map, of 4 × 4 pixels a position, is highest at this position."""
    anomaly_map = np.zeros((-(-height // 4), -(-width // 4)), np.float32)
    anomaly_map[peak] = 1.0
    return InspectedImage(
        score=1.0,
        p_value=0.05,
        verdict="reject",
        anomaly_map=anomaly_map,
        mask=anomaly_map > 0.5,
        extent=LevelMaps((anomaly_map,), (4,), height, width).extent,
    )


def test_a_small_image_has_no_close_up() -> None:
    assert close_up(inspected(512, 300, (0, 0)), 512, 300) is None


@pytest.mark.parametrize(
    ("height", "width", "peak", "place"),
    [
        (2048, 2048, (256, 300), (904, 1080, 240, 240)),
        (2048, 2048, (0, 511), (0, 1808, 240, 240)),
        (2050, 410, (512, 102), (1812, 172, 238, 238)),
        (100, 5000, (3, 700), (0, 2680, 100, 240)),
    ],
    ids=["inside", "corner", "a last position that is cut", "narrower than the part"],
)
def test_the_part_lies_around_the_maximum_and_in_the_image(
    height: int, width: int, peak: tuple[int, int], place: tuple[int, int, int, int]
) -> None:
    found = close_up(inspected(height, width, peak), height, width)
    assert isinstance(found, CloseUp)
    assert (found.top, found.left, found.height, found.width) == place
    assert found.anomaly_map.max() == 1.0
    shown = found.map_at(found.height, found.width)
    assert shown.shape == (found.height, found.width)
    at = np.unravel_index(shown.argmax(), shown.shape)
    assert [at[0] + found.top, at[1] + found.left] == pytest.approx(
        [4 * peak[0] + 2, 4 * peak[1] + 2], abs=2
    )
