"""Dinomaly against its formulas, and its recipe against the authors'."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import combined, known_levels
from torch import Tensor, nn
from toys import toy_teacher

from stillwatch.detectors.dinomaly import (
    BottleneckAndDecoder,
    Dinomaly,
    LinearAttention,
    positive,
    warm_up_and_cosine_to_a_tenth,
)

SIGMA = 5.0
"""Pixels."""


def built(values: dict[str, Any]) -> Dinomaly:
    return Dinomaly.build(toy_teacher(Dinomaly.teacher_strides("", {})), values)


def test_linear_attention_by_hand() -> None:
    """Queries, keys and values of two tokens are -ln 2 and 1; phi makes 1/2 and 2 of them."""
    attention = LinearAttention(1)
    for layer in (attention.joint, attention.out):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    low = -float(np.log(2))
    tokens = torch.tensor([low, 1.0]).view(1, 2, 1)
    expected = torch.full((1, 2, 1), (0.5 * low + 2 * 1.0) / 2.5)
    torch.testing.assert_close(attention(tokens), expected)


def test_there_is_a_head_for_each_64_channels() -> None:
    """Tokens 0 and 1 have the same first 64 channels, and attend alike with their first head."""
    torch.manual_seed(0)
    attention = LinearAttention(128)
    nn.init.eye_(attention.joint.weight[:128])
    nn.init.zeros_(attention.joint.bias[:128])
    nn.init.eye_(attention.out.weight)
    tokens = torch.randn(1, 5, 128)
    tokens[:, 1, :64] = tokens[:, 0, :64]
    first, second, *_ = attention(tokens)[0] - attention.out.bias
    torch.testing.assert_close(first[:64], second[:64])
    assert not torch.allclose(first[64:], second[64:])


def test_phi_stays_positive_far_below_zero() -> None:
    values = torch.tensor([-30.0, -1.0, 0.0, 2.0])
    torch.testing.assert_close(positive(values), torch.tensor([9.3576e-14, 0.367879, 1.0, 3.0]))


def test_late_blocks_rebuild_the_shallow_group() -> None:
    """Each of the eight blocks adds 1 to the mean of the groups, which is 2."""
    student = BottleneckAndDecoder(3).eval()
    student.bottleneck = nn.Identity()
    student.blocks = nn.ModuleList(Increment() for _ in range(8))
    features = [torch.full((1, 3, 2, 4), value) for value in (1.0, 3.0)]
    shallow, deep = student(features)
    torch.testing.assert_close(shallow, torch.full((1, 3, 2, 4), 2 + (5 + 6 + 7 + 8) / 4))
    torch.testing.assert_close(deep, torch.full((1, 3, 2, 4), 2 + (1 + 2 + 3 + 4) / 4))


class Increment(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + 1


def test_bottleneck_is_noisy_in_training_only() -> None:
    student = BottleneckAndDecoder(8)
    features = [torch.randn(1, 8, 2, 2)] * 2
    first, second = student.train()(features), student(features)
    assert not torch.equal(first[0], second[0])
    first, second = student.eval()(features), student(features)
    assert torch.equal(first[0], second[0])


def test_initial_weights_are_small_and_biases_are_zero() -> None:
    layers = [one for one in BottleneckAndDecoder(64).modules() if isinstance(one, nn.Linear)]
    assert len(layers) == 2 + 8 * 4
    weights = torch.cat([layer.weight.flatten() for layer in layers])
    assert weights.abs().max().item() <= 0.03
    assert weights.std().item() == pytest.approx(0.01, rel=0.05)
    assert not any(layer.bias.any() for layer in layers)


def test_loss_and_published_map_by_hand() -> None:
    """1 - cos is 0.04 in one group and 1 in the other, at every position."""
    taught = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    rebuilt = [
        torch.tensor(vector).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        for vector in ([4.0, 3.0], [-4.0, 3.0])
    ]
    detector = built({"fusion": "published"})
    detector.teacher, detector.student = FixedNetwork([taught, taught]), FixedNetwork(rebuilt)
    batch: Any = SimpleNamespace(features=[taught, taught], progress=1.0)
    assert detector._loss(batch).item() == pytest.approx(0.52)
    maps = detector.level_maps(torch.zeros(1, 3, 64, 64))
    levels = [known_levels([level[0] for level in maps], (16, 16))]
    (found,) = combined(levels, detector.combination(levels, SIGMA))
    np.testing.assert_allclose(found, np.full((16, 16), 1.04), rtol=1e-5)


def test_easy_positions_get_a_tenth_of_the_gradient_after_a_fifth_of_the_training() -> None:
    torch.manual_seed(0)
    taught = torch.randn(1, 4, 2, 5)
    gradients = {}
    for progress in (0.0, 0.2):
        rebuilt = (taught + 0.1).requires_grad_()
        with torch.no_grad():
            rebuilt[0, :, 1, 2] *= -1
        detector = built({})
        detector.student = FixedNetwork([rebuilt, rebuilt])
        batch: Any = SimpleNamespace(features=[taught, taught], progress=progress)
        detector._loss(batch).backward()
        gradients[progress] = rebuilt.grad
    factors = torch.full((2, 5), 0.1)
    factors[1, 2] = 1.0
    torch.testing.assert_close(gradients[0.2], gradients[0.0] * factors)


def test_authors_recipe() -> None:
    """5,000 steps: 100 of warm-up, and a rate of 0.002 that falls to 0.0002."""
    detector = built(dict(Dinomaly.paper))
    assert detector.settings.fusion == "published"
    (phase,) = detector.phases()
    optimizer = phase.optimizer(phase.module.parameters())
    (group,) = optimizer.param_groups
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.002, 1e-8, 1e-4)
    assert (phase.epochs, phase.least_steps, phase.batch_size) == (1, 5000, 16)
    factors = [phase.schedule(step / 5000) for step in (50, 100, 2550, 5000)]
    assert factors == pytest.approx([0.5, 1.0, 0.55, 0.1])
    assert phase.schedule is warm_up_and_cosine_to_a_tenth
