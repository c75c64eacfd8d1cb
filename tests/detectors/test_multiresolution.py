"""Multiresolution distillation against its formulas, and its cloner against the authors' layers."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import MadeNormals, combined, known_levels, one_batch
from torch import nn
from toys import toy_normals, toy_teacher

from stillwatch.detectors.multiresolution import Multiresolution, direction_loss, value_loss
from stillwatch.teachers.networks import Teacher, empty_teacher, images_to_input

VGG = "vgg16.tv_in1k"


@cache
def teacher_of(name: str) -> Teacher:
    return empty_teacher(name, "", Multiresolution.teacher_strides(name, {}))


@pytest.fixture
def vgg() -> Teacher:
    return teacher_of(VGG)


@pytest.fixture
def detector() -> Multiresolution:
    return Multiresolution.build(toy_teacher(), {})


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return images_to_input(torch.from_numpy(toy_normals(2, first=50)))


def test_value_loss_by_hand() -> None:
    """(1 + 4 + 0 + 9) / 4 at the first point, 16 / 1 at the second."""
    first = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[2.0, 4.0], [3.0, 1.0]]]])
    second = torch.tensor([[[[5.0]]]]), torch.tensor([[[[1.0]]]])
    assert value_loss([first, second]).tolist() == [3.5 + 16.0]


def test_direction_loss_by_hand() -> None:
    """The flattened activations (3, 4) and (4, 3) have the cosine 24 / 25."""
    pair = torch.tensor([[[[3.0]], [[4.0]]]]), torch.tensor([[[[4.0]], [[3.0]]]])
    opposite = torch.tensor([[[[1.0]]]]), torch.tensor([[[[-2.0]]]])
    assert direction_loss([pair, opposite]).item() == pytest.approx(1 / 25 + 2)


def test_both_losses_begin_with_the_same_weight(detector: Multiresolution) -> None:
    batch = one_batch(toy_normals(4), detector.teacher)
    with torch.no_grad():
        detector.prepare(MadeNormals(toy_normals(4), detector.teacher))
        pairs = list(
            zip(
                batch.features,
                detector.cloner(detector.teacher.normalise(batch.images)),
                strict=True,
            )
        )
        value, direction = value_loss(pairs).mean(), direction_loss(pairs).mean()
        loss = detector.phases()[0].loss(batch)
    assert float(detector.balance * direction) == pytest.approx(float(value), rel=1e-4)
    assert float(loss) == pytest.approx(2 * float(value), rel=1e-4)


def test_balance_and_loss_by_hand(detector: Multiresolution) -> None:
    """(3, 4) against (4, 3) on three levels: L_val = 3 · 1, L_dir = 3 (1 - 24 / 25) = 0.12."""
    taught, cloned = (torch.tensor(x).view(1, 2, 1, 1) for x in ([3.0, 4.0], [4.0, 3.0]))
    levels = [(taught.expand(1, 2, n, n), cloned.expand(1, 2, n, n)) for n in (8, 4, 2)]
    detector.teacher = FixedNetwork([a for a, _ in levels])
    detector.cloner = FixedNetwork([b for _, b in levels])
    images = torch.zeros(1, 3, 32, 32)
    batch = SimpleNamespace(features=[a for a, _ in levels], images=images)
    detector.prepare([batch])
    assert float(detector.balance) == pytest.approx(3 / 0.12, rel=1e-4)
    assert float(detector.phases()[0].loss(batch)) == pytest.approx(6, rel=1e-4)


def test_compact_cloner_of_a_vgg_is_the_authors(vgg: Teacher) -> None:
    """16, 16, P, 16, 128, P, 16, 16, 256, P, 16, 16, 512, P, 16, 16, 512, P; 3×3, no bias."""
    cloner = Multiresolution.build(vgg, {}).cloner
    convolutions = [module for module in cloner.modules() if isinstance(module, nn.Conv2d)]
    widths = [16, 16, 16, 128, 16, 16, 256, 16, 16, 512, 16, 16, 512]
    assert [module.out_channels for module in convolutions] == widths
    assert all(module.bias is None for module in convolutions)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in cloner.modules())
    assert norms == len(widths) - 5, "the convolution before each pool is not normalised"
    shapes = [tuple(x.shape[1:]) for x in cloner(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        (VGG, [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6),
        ("vgg11.tv_in1k", [64, 128] + [256] * 2 + [512] * 4),
        ("vgg19_bn.tv_in1k", [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8),
    ],
)
def test_equal_cloner_of_a_vgg_has_its_widths(name: str, widths: list[int]) -> None:
    with torch.device("meta"):  # shapes without values
        teacher = empty_teacher(name, "", Multiresolution.teacher_strides(name, {}))
        cloner = Multiresolution.build(teacher, {"cloner": "equal"}).cloner
        shapes = [tuple(x.shape[1:]) for x in cloner(torch.zeros(1, 3, 32, 32))]
    convolutions = [module for module in cloner.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == widths
    assert shapes == [(128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]


def test_critical_points_of_a_vgg_are_its_pools(vgg: Teacher) -> None:
    detector = Multiresolution.build(vgg, {})
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        x, pools = vgg.normalise(images), []
        for module in vgg.network.children():
            x = module(x)
            if isinstance(module, nn.MaxPool2d):
                pools.append(x)
        pools.append(torch.max_pool2d(x, 2))
        pairs = detector._compared(vgg(images), images)
    assert len(pools) == 5, "timm cuts the last pool, which follows the deepest level"
    for (taught, _), pool in zip(pairs, pools[1:], strict=True):
        torch.testing.assert_close(taught, pool)


@pytest.mark.parametrize("size", ["compact", "equal"])
def test_any_teachers_levels_can_be_cloned(size: str) -> None:
    teacher = empty_teacher("efficientnet_lite0", "")
    detector = Multiresolution.build(teacher, {"cloner": size})
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        cloned = detector.cloner(teacher.normalise(images))
        assert [x.shape for x in cloned] == [x.shape for x in teacher(images)]
    assert min(float(x.min()) for x in cloned) < 0, "the teacher's levels are signed"


def test_forward_map_by_hand() -> None:
    """(3, 4) against (4, 3), lambda 2, summed over three levels.

    Each position has (1 + 1) / 2 + 2 (1 - 24 / 25) = 1.08; smoothing leaves a constant as it is.
    """
    detector = Multiresolution.build(toy_teacher(), {"fusion": "published"})
    detector.balance = torch.tensor(2.0)
    taught, cloned = (torch.tensor(x).view(1, 2, 1, 1) for x in ([3.0, 4.0], [4.0, 3.0]))
    levels = [(taught.expand(1, 2, n, n), cloned.expand(1, 2, n, n)) for n in (8, 4, 2)]
    detector.teacher = FixedNetwork([a for a, _ in levels])
    detector.cloner = FixedNetwork([b for _, b in levels])
    maps = detector.level_maps(torch.zeros(1, 3, 32, 32))
    found = [known_levels([level[0] for level in maps], (4, 8, 16))]
    combination = detector.combination(found, 2.0)
    assert combination.sigma == 2
    np.testing.assert_allclose(
        combined(found, combination)[0], np.full((8, 8), 3 * 1.08), rtol=1e-5
    )


def test_detection_uses_the_last_three_of_four_pools(vgg: Teacher) -> None:
    detector = Multiresolution.build(vgg, {})
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        pairs = detector._compared(vgg(images), images)
        maps = detector.level_maps(images)
    assert len(pairs) == 4
    assert [level.shape[1:] for level in maps] == [taught.shape[2:] for taught, _ in pairs[1:]]
