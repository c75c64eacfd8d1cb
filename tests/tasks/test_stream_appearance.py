import numpy as np
import pytest

from stillwatch.tasks.stream_appearance import LAST, unusual_looks
from stillwatch.tasks.training.training_images import TrainingAppearance

LEARNT = TrainingAppearance(tuple(np.linspace(110, 130, 30)), tuple(np.linspace(90, 110, 30)))


@pytest.mark.parametrize(
    ("brightness", "sharpness", "words"),
    [
        (120, 100, []),
        (125, 105, []),
        (60, 100, ["darker"]),
        (200, 100, ["brighter"]),
        (120, 20, ["more blurred"]),
        (120, 900, ["sharper"]),
        (0, 0, ["darker", "more blurred"]),
    ],
)
def test_each_way_to_look_unusual_has_its_sentence(
    brightness: float, sharpness: float, words: list[str]
) -> None:
    looks = unusual_looks(LEARNT, np.full(50, brightness), np.full(50, sharpness))
    assert len(looks) == len(words)
    for look, word in zip(looks, words, strict=True):
        assert word in look


def test_the_last_images_count_and_single_ones_do_not() -> None:
    before, dark = np.full(1000, 120.0), np.full(LAST, 60.0)
    sharpness = np.full(1000 + LAST, 100.0)
    (look,) = unusual_looks(LEARNT, np.concatenate([before, dark]), sharpness)
    assert "median grey value 60" in look
    assert unusual_looks(LEARNT, np.concatenate([dark, before]), sharpness) == ()
    assert unusual_looks(LEARNT, [60] * 9, [100] * 9) == ()


def test_all_but_identical_train_images_do_not_make_every_other_one_unusual() -> None:
    same = TrainingAppearance((120.0,) * 20, (100.0,) * 20)
    assert unusual_looks(same, np.full(50, 124), np.full(50, 110)) == ()
