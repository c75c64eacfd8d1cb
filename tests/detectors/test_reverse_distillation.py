"""Reverse distillation against its formulas, and its layers against the authors' description."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.detectors.reverse_distillation import (
    EmbeddingAndDecoder,
    ReverseDistillation,
    mined_share,
)
from stillwatch.teachers.networks import images_to_input
from stillwatch.testing.toys import toy_normals, toy_teacher
from stillwatch.training.data import ImagePool


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


def test_less_is_learnt_from_what_is_easy_within_a_quarter_of_the_training() -> None:
    shares = [mined_share(0.9, progress) for progress in (0.0, 0.125, 0.25, 1.0)]
    assert shares == pytest.approx([0, 0.45, 0.9, 0.9])


def test_loss_compares_flattened_maps() -> None:
    detector = ReverseDistillation.build(toy_teacher(), {})
    (batch,) = ImagePool(toy_normals(3), detector.teacher, torch.device("cpu")).batches(3)
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
    (batch,) = ImagePool(toy_normals(3), detector.teacher, torch.device("cpu")).batches(3)
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


@pytest.mark.parametrize("relative", [False, True])
def test_map_is_the_smoothed_sum_of_the_upsampled_distances(relative: bool) -> None:
    detector = ReverseDistillation.build(toy_teacher(), {"relative": relative})
    detector.largest_medians.fill_(2.0)
    detector.rises.fill_(0.5)
    images = images_to_input(torch.from_numpy(toy_normals(2)))
    total = torch.zeros(2, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for level in distances(detector, images):
            medians = level.flatten(1).median(dim=1).values[:, None, None]
            maps = (level / (0.5 * medians.sqrt()) if relative else level)[:, None]
            total += F.interpolate(maps, (64, 64), mode="bilinear", align_corners=True)[:, 0]
        expected = np.stack([gaussian_filter(one, 1.0) for one in total.numpy()])
        np.testing.assert_allclose(detector.anomaly_map(images), expected, rtol=1e-4)


def test_relative_map_by_hand() -> None:
    """Three levels, of which the third is as large as the image.

    1 - cos is 0.04 between (3, 4) and (4, 3), and 1 between (3, 4) and (-4, 3). First level: 0.04
    everywhere, its median too, at a rise of 0.5. Second: 1 everywhere, where no more than 0.25 is
    forgiven, at a rise of 4. Third: 0.04 in three quarters, the median among them, 1 in the rest,
    at a rise of 1; smoothing keeps its mean.
    """
    like, other = (torch.tensor(x).view(1, 2, 1, 1) for x in ([4.0, 3.0], [-4.0, 3.0]))
    taught = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    rebuilt = [like.repeat(1, 1, 4, 4), other.repeat(1, 1, 2, 2), like.repeat(1, 1, 16, 16)]
    rebuilt[2][..., :8, :8] = other
    detector = ReverseDistillation.build(toy_teacher(), {})
    detector.teacher = FixedNetwork([taught.expand_as(level) for level in rebuilt])
    detector.student = FixedNetwork(rebuilt)
    detector.largest_medians.copy_(torch.tensor([1.0, 0.25, 1.0]))
    detector.rises.copy_(torch.tensor([0.5, 4.0, 1.0]))
    maps = detector.anomaly_map(torch.zeros(1, 3, 16, 16))
    third = 0.75 * 0.04 / 0.2 + 0.25 * 1 / 0.2
    assert maps.mean().item() == pytest.approx(0.04 / 0.2 / 0.5 + 1 / 0.5 / 4 + third, rel=1e-5)
    # Far from the third level's border, where 1 / 0.2 stands at one corner and 0.04 / 0.2 opposite.
    corners = torch.stack([maps[0, 0, 0], maps[0, -1, -1]])
    torch.testing.assert_close(corners, torch.tensor([0.9 + 5.0, 0.9 + 0.2]), rtol=1e-4, atol=0)


def test_released_map_and_losses_by_hand() -> None:
    """1 - cos is 0.04, 1 and 0.04 on three levels, everywhere; whole maps have the same cosines."""
    like, other = (torch.tensor(x).view(1, 2, 1, 1) for x in ([4.0, 3.0], [-4.0, 3.0]))
    taught = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    rebuilt = [one.repeat(1, 1, n, n) for one, n in ((like, 4), (other, 2), (like, 1))]
    features = [taught.expand_as(level) for level in rebuilt]
    for loss in ("flattened", "per_position"):
        own = {"loss": loss, "relative": False, "easy_share": 0.0, "disturbance": False}
        detector = ReverseDistillation.build(toy_teacher(), own)
        detector.teacher, detector.student = FixedNetwork(features), FixedNetwork(rebuilt)
        batch = SimpleNamespace(features=features, progress=1.0)
        assert detector._loss(batch).item() == pytest.approx(1.08)
        maps = detector.anomaly_map(torch.zeros(1, 3, 16, 16))
        torch.testing.assert_close(maps, torch.full((1, 16, 16), 1.08))


def test_medians_and_rises_of_normals_by_hand() -> None:
    """The first level is 1 in a quarter and 0.04 elsewhere, which is its median.

    Relative to the root of that, 0.2, it is 5 and 0.2, and 0.25 · 5 + 0.75 · 0.2 = 1.4 on average.
    """
    like, other = (torch.tensor(x).view(1, 2, 1, 1) for x in ([4.0, 3.0], [-4.0, 3.0]))
    taught = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    rebuilt = [one.repeat(1, 1, n, n) for one, n in ((like, 16), (other, 8), (like, 4))]
    rebuilt[0][..., :8, :8] = other
    detector = ReverseDistillation.build(toy_teacher(), {})
    detector.student = FixedNetwork(rebuilt)
    detector.finalize([SimpleNamespace(features=[taught.expand_as(level) for level in rebuilt])])
    torch.testing.assert_close(detector.largest_medians, torch.tensor([0.04, 1.0, 0.04]))
    assert detector.rises[0].item() == pytest.approx(5 - 1.4, rel=1e-4)


def test_an_image_is_forgiven_no_more_than_the_worst_validation_normal() -> None:
    detector = ReverseDistillation.build(toy_teacher(), {})
    normals = ImagePool(toy_normals(3), detector.teacher, torch.device("cpu"))
    with torch.no_grad():
        detector.finalize(normals.batches(2))
        levels = distances(detector, images_to_input(torch.from_numpy(toy_normals(3))))
        medians = [level.flatten(1).median(dim=1).values for level in levels]
        largest = torch.stack([one.max() for one in medians])
        torch.testing.assert_close(detector.largest_medians.double(), largest, rtol=1e-3, atol=0)
        relative = [
            level / one.sqrt()[:, None, None] for level, one in zip(levels, medians, strict=True)
        ]
        rises = torch.stack([rise(level) for level in relative])
        torch.testing.assert_close(detector.rises.double(), rises, rtol=1e-3, atol=0)
        images = images_to_input(torch.from_numpy(toy_normals(1)))
        before = detector.anomaly_map(images)
        detector.largest_medians.mul_(0.01)
        torch.testing.assert_close(
            detector.anomaly_map(images).mean() / before.mean(),
            torch.tensor(10.0),
            rtol=0.5,
            atol=0,
        )


def rise(level: torch.Tensor) -> torch.Tensor:
    """By how much the final map of one level (B, h, w) exceeds its mean, averaged over images."""
    maps = F.interpolate(level[:, None], (64, 64), mode="bilinear", align_corners=True)[:, 0]
    final = [gaussian_filter(one, 1.0) for one in maps.numpy()]
    return torch.tensor(np.mean([one.max() - one.mean() for one in final]))


def test_only_training_is_disturbed() -> None:
    losses = {}
    for disturbance in (False, True):
        detector = ReverseDistillation.build(toy_teacher(), {"disturbance": disturbance})
        (batch,) = ImagePool(toy_normals(3), detector.teacher, torch.device("cpu")).batches(3)
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
    assert (detector.settings.easy_share, detector.settings.relative) == (0, False)
    (phase,) = detector.phases()
    optimizer = phase.optimizer(phase.module.parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.005, (0.5, 0.999), 0)
    assert (phase.epochs, phase.batch_size) == (200, 16)
    assert {phase.schedule(progress) for progress in (0.001, 0.5, 0.999)} == {1.0}
