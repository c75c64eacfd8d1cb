"""The battery lets sound methods of any shape pass and catches each broken promise."""

import pytest
from battery import check_detector
from toy_methods import BROKEN, SOUND

from stillwatch.detectors.base import Detector


@pytest.mark.parametrize("method", SOUND, ids=lambda method: method.__name__)
def test_sound_method_passes(method: type[Detector]) -> None:
    check_detector(method)


@pytest.mark.parametrize("method", BROKEN, ids=lambda method: method.__name__)
def test_broken_promise_is_caught(method: type[Detector]) -> None:
    with pytest.raises(AssertionError, match=BROKEN[method]):
        check_detector(method)
