import pytest
import torch

from stillwatch.detectors.blocks.standardisation import Standardisation


def test_mean_and_deviation_are_those_of_all_positions_of_all_batches() -> None:
    """Channel one holds 1, 3, 5 and 7: mean 4, variance (9 + 1 + 1 + 9) / 4 = 5; two holds 2."""
    made = Standardisation(2)
    first = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]])
    second = torch.tensor([[[[5.0, 7.0]], [[2.0, 2.0]]]])
    made.measure([first, second])
    assert made.mean.flatten().tolist() == pytest.approx([4, 2])
    assert made.std[0].item() == pytest.approx(5**0.5)
    assert made(first)[0, 0, 0].tolist() == pytest.approx([-3 / 5**0.5, -1 / 5**0.5])
    assert made(first)[0, 1].abs().max() == 0, "a constant channel is not divided by nothing"
