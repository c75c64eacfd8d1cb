"""Reverse distillation against its formulas, and its layers against the authors' description."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import MadeNormals, combined, known_levels, levels_of, one_batch
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toys import toy_normals, toy_teacher

from stillwatch.detectors.patchcore import PatchCore
from stillwatch.detectors.reverse_distillation import (
    EmbeddingAndDecoder,
    ReverseDistillation,
)
from stillwatch.errors import SettingsError
from stillwatch.teachers.networks import images_to_input


def features(channels: tuple[int, ...], side: int = 64, images: int = 1) -> list[torch.Tensor]:
    return [
        torch.randn(images, count, side // stride, side // stride)
        for count, stride in zip(channels, (4, 8, 16), strict=True)
    ]


def convolutions(stage: nn.Module) -> int:
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return sum(isinstance(module, kinds) for module in stage.modules())


def shapes_of(network: nn.Module, *names: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What goes into and comes out of these parts, filled in when the network is asked."""
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _, given, made: seen.append((tuple(given[0].shape[1:]), tuple(made.shape[1:])))
        )
    return seen


def test_loss_compares_flattened_maps() -> None:
    detector = ReverseDistillation.build(toy_teacher(), {})
    batch = one_batch(toy_normals(3), detector.teacher)
    (phase,) = detector.phases()
    expected = 0.0
    with torch.no_grad():
        for a, b in zip(batch.features, detector.student(batch.features), strict=True):
            t, s = a.double().flatten(1).numpy(), b.double().flatten(1).numpy()
            cosines = (t * s).sum(1) / np.sqrt((t**2).sum(1) * (s**2).sum(1))
            expected += (1 - cosines).mean()
        np.testing.assert_allclose(phase.loss(batch).item(), expected, rtol=1e-5)


def test_loss_compares_positions_where_that_is_asked_for() -> None:
    detector = ReverseDistillation.build(toy_teacher(), {"loss": "per_position"})
    batch = one_batch(toy_normals(3), detector.teacher)
    (phase,) = detector.phases()
    with torch.no_grad():
        expected = sum(level.mean() for level in distances(detector, batch.images))
        np.testing.assert_allclose(phase.loss(batch).item(), float(expected), rtol=1e-3)


def distances(detector: ReverseDistillation, images: torch.Tensor) -> list[torch.Tensor]:
    """1 - cos of each level, (B, h, w) in float64."""
    taught = detector.teacher(images)
    return [
        1 - F.cosine_similarity(a.double(), b.double(), dim=1)
        for a, b in zip(taught, detector.student(taught), strict=True)
    ]


def test_map_is_the_smoothed_sum_of_the_enlarged_distances() -> None:
    detector = ReverseDistillation.build(toy_teacher(), {"fusion": "published", "memory": 0})
    normals = toy_normals(3)
    with torch.no_grad():
        levels = distances(detector, images_to_input(torch.from_numpy(normals)))
    total = np.sum([enlarged(level) for level in levels], axis=0)
    expected = np.stack([gaussian_filter(one, SIGMA / 4) for one in total])
    found = levels_of(detector, normals)
    maps = combined(found, detector.combination(found, SIGMA))
    np.testing.assert_allclose(maps, expected, rtol=1e-4)


def test_the_memory_is_patchcores_and_weighs_as_much_as_the_decoder() -> None:
    teacher, normals = toy_teacher(), toy_normals(6)
    detector = ReverseDistillation.build(teacher, {"memory": 0.1})
    without = ReverseDistillation.build(teacher, {"memory": 0})
    others = PatchCore.build(teacher, {"coreset": 0.1}), without
    for one in (detector, *others):
        torch.manual_seed(0)
        one.prepare(MadeNormals(normals, teacher))
    images = images_to_input(torch.from_numpy(normals[:2]))
    with torch.no_grad():
        *rebuilt, remembered = detector.level_maps(images)
        (expected,), alone = (other.level_maps(images) for other in others)
    torch.testing.assert_close(remembered, expected)
    for level, same in zip(rebuilt, alone, strict=True):
        torch.testing.assert_close(level, same)
    levels = detector.combination(levels_of(detector, normals), SIGMA).levels
    assert [level.weight for level in levels] == [1, 1, 1, 3]


def test_a_memory_is_not_added_to_the_published_sum() -> None:
    with pytest.raises(SettingsError, match="memory needs fusion: standardised, and fusion is pub"):
        ReverseDistillation.build(toy_teacher(), {**ReverseDistillation.paper, "memory": 0.01})


SIGMA = 5.0
"""Pixels."""


def enlarged(level: torch.Tensor) -> np.ndarray:
    """(B, h, w) to (B, 16, 16)."""
    return F.interpolate(level[:, None], (16, 16), mode="bilinear", align_corners=True)[
        :, 0
    ].numpy()


def test_released_map_and_losses_by_hand() -> None:
    """1 - cos is 0.04, 1 and 0.04 on three levels, everywhere; whole maps have the same cosines."""
    like, other = (torch.tensor(x).view(1, 2, 1, 1) for x in ([4.0, 3.0], [-4.0, 3.0]))
    taught = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    rebuilt = [one.repeat(1, 1, n, n) for one, n in ((like, 4), (other, 2), (like, 1))]
    features = [taught.expand_as(level) for level in rebuilt]
    for loss in ("flattened", "per_position"):
        own = {
            "loss": loss,
            "fusion": "published",
            "memory": 0,
            "easy_share": 0.0,
            "disturbance": False,
        }
        detector = ReverseDistillation.build(toy_teacher(), own)
        detector.teacher, detector.student = FixedNetwork(features), FixedNetwork(rebuilt)
        batch = SimpleNamespace(features=features, progress=1.0)
        assert detector._loss(batch).item() == pytest.approx(1.08)
        maps = detector.level_maps(torch.zeros(1, 3, 16, 16))
        levels = [known_levels([level[0] for level in maps], (4, 8, 16))]
        (found,) = combined(levels, detector.combination(levels, SIGMA))
        np.testing.assert_allclose(found, np.full((4, 4), 1.08), rtol=1e-5)


def test_only_training_is_disturbed() -> None:
    losses = {}
    for disturbance in (False, True):
        detector = ReverseDistillation.build(toy_teacher(), {"disturbance": disturbance})
        batch = one_batch(toy_normals(3), detector.teacher)
        (phase,) = detector.phases()
        torch.manual_seed(0)
        with torch.no_grad():
            watched = phase.loss(batch).item()
            detector.student.train()
            losses[disturbance] = watched, phase.loss(batch).item()
    assert losses[False][0] == losses[True][0]
    assert losses[False][1] != losses[True][1]


@pytest.mark.parametrize("channels", [(24, 40, 112), (64, 128, 256), (12, 20, 28), (96, 192, 384)])
def test_decoder_fits_any_teacher(channels: tuple[int, ...]) -> None:
    given = features(channels)
    rebuilt = EmbeddingAndDecoder(channels).eval()(given)
    assert [x.shape for x in rebuilt] == [x.shape for x in given]


def test_layers_for_wide_resnet_50_are_the_authors() -> None:
    with torch.device("meta"):
        student = EmbeddingAndDecoder((256, 512, 1024), wide=True)
    assert isinstance(student.fuse_deep, nn.Identity)
    assert all(isinstance(head, nn.Identity) for head in student.heads)
    assert [len(stage) for stage in (student.decode_deep, student.decode_middle)] == [3, 4]
    assert len(student.decode_shallow) == 6
    assert len(student.embed) == 3
    first = student.embed[0]
    assert first.shortcut[0].weight.shape == (2048, 3072, 1, 1)
    assert first.body[1].weight.shape == (1024, 1024, 3, 3), "twice as wide as a plain bottleneck"
    assert first.body[1].stride == (2, 2)
    up = student.decode_deep[0]
    assert up.body[1].weight.shape == (512, 512, 2, 2)
    assert isinstance(up.body[1], nn.ConvTranspose2d)
    assert up.shortcut[0].weight.shape == (2048, 1024, 2, 2)


def test_sizes_for_wide_resnet_50_at_256_pixels_are_the_authors() -> None:
    with torch.device("meta"):
        student = EmbeddingAndDecoder((256, 512, 1024), wide=True).eval()
        given = [torch.rand(1, c, n, n) for c, n in ((256, 64), (512, 32), (1024, 16))]
        seen = shapes_of(student, "embed", "decode_deep", "decode_middle", "decode_shallow")
        student(given)
    assert seen == [
        ((3072, 16, 16), (2048, 8, 8)),
        ((2048, 8, 8), (1024, 16, 16)),
        ((1024, 16, 16), (512, 32, 32)),
        ((512, 32, 32), (256, 64, 64)),
    ]


def test_layers_for_resnet_18_are_the_authors() -> None:
    student = EmbeddingAndDecoder((64, 128, 256))
    assert [convolutions(stage) for stage in student.children()][:3] == [2, 1, 0]
    stages = (student.embed, student.decode_deep, student.decode_middle, student.decode_shallow)
    assert [len(stage) for stage in stages] == [2, 2, 2, 2]
    assert student.embed[0].body[0].weight.shape == (512, 768, 3, 3)
    assert student.decode_deep[0].body[0].weight.shape == (512, 256, 2, 2)
    assert all(isinstance(head, nn.Identity) for head in student.heads)


def test_teachers_signed_features_can_be_rebuilt() -> None:
    rebuilt = EmbeddingAndDecoder((24, 40, 112)).eval()(features((24, 40, 112), images=2))
    assert all(bool((level < 0).any()) for level in rebuilt)


def test_authors_recipe() -> None:
    detector = ReverseDistillation.build(toy_teacher(), ReverseDistillation.paper)
    assert (detector.settings.easy_share, detector.settings.fusion) == (0, "published")
    (phase,) = detector.phases()
    optimizer = phase.optimizer(phase.module.parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.005, (0.5, 0.999), 0)
    assert (phase.epochs, phase.batch_size) == (200, 16)
    assert {phase.schedule(progress) for progress in (0.001, 0.5, 0.999)} == {1.0}
