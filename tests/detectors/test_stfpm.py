"""STFPM against its formulas, computed here in numpy from the networks' features."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import combined, known_levels, levels_of, one_batch
from torch.nn import functional as F  # noqa: N812
from toys import toy_normals, toy_teacher

from stillwatch.detectors.stfpm import STFPM
from stillwatch.teachers.networks import images_to_input


def squared_distances(detector: STFPM, images: torch.Tensor) -> list[np.ndarray]:
    """Per level ||f_t/|f_t| - f_s/|f_s|||^2 at each position: (B, h, w)."""
    found = []
    with torch.no_grad():
        student = detector.student(detector.teacher.normalise(images))
        for a, b in zip(detector.teacher(images), student, strict=True):
            t, s = a.double().numpy(), b.double().numpy()
            t = t / np.sqrt((t**2).sum(axis=1, keepdims=True))
            s = s / np.sqrt((s**2).sum(axis=1, keepdims=True))
            found.append(((t - s) ** 2).sum(axis=1))
    return found


def test_loss_is_the_mean_over_positions_and_the_sum_over_levels() -> None:
    detector = STFPM.build(toy_teacher(), {})
    batch = one_batch(toy_normals(3), detector.teacher)
    (phase,) = detector.phases()
    expected = sum(level.mean() for level in squared_distances(detector, batch.images))
    np.testing.assert_allclose(phase.loss(batch).item(), expected, rtol=1e-5)


def test_map_is_the_product_at_a_quarter_of_the_size_without_smoothing() -> None:
    detector = STFPM.build(toy_teacher(), {"fusion": "published"})
    normals = toy_normals(2)
    expected = np.ones((2, 16, 16))
    for level in squared_distances(detector, images_to_input(torch.from_numpy(normals))):
        maps = torch.from_numpy(level)[:, None]
        expected *= F.interpolate(maps, (16, 16), mode="bilinear", align_corners=True)[:, 0].numpy()
    levels = levels_of(detector, normals)
    found = combined(levels, detector.combination(levels, 1.0))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def known() -> tuple[STFPM, list[torch.Tensor]]:
    """Teacher and student whose vectors have an angle that is known, and the teacher's levels.

    Of (3, 4) and (8, 6) the normalised ones are (0.6, 0.8) and (0.8, 0.6), at a squared distance of
    0.04 + 0.04; of (5, 0) and (0, 2) at one of 2, of (1, 1) and (-7, -7) at one of 4. In the left
    half of the first level they are equal.
    """
    taught, imitated = [], []
    pairs = (([3.0, 4.0], [8.0, 6.0]), ([5.0, 0.0], [0.0, 2.0]), ([1.0, 1.0], [-7.0, -7.0]))
    for side, (one, other) in zip((4, 2, 1), pairs, strict=True):
        taught.append(torch.tensor(one).view(1, 2, 1, 1).repeat(1, 1, side, side))
        imitated.append(torch.tensor(other).view(1, 2, 1, 1).repeat(1, 1, side, side))
    imitated[0][..., :2] = taught[0][..., :2]
    detector = STFPM.build(toy_teacher(), {"fusion": "published"})
    detector.teacher, detector.student = FixedNetwork(taught), FixedNetwork(imitated)
    return detector, taught


def test_loss_by_hand() -> None:
    detector, taught = known()
    batch = SimpleNamespace(features=taught, images=torch.zeros(1, 3, 16, 16))
    assert detector._loss(batch).item() == pytest.approx(0.08 / 2 + 2 + 4)


def test_product_map_by_hand() -> None:
    """0 in the left half, 0.08 · 2 · 4 in the right."""
    detector, _ = known()
    maps = detector.level_maps(torch.zeros(1, 3, 16, 16))
    levels = [known_levels([level[0] for level in maps], (4, 8, 16))]
    (found,) = combined(levels, detector.combination(levels, 1.0))
    np.testing.assert_allclose(found, [[0, 0, 0.64, 0.64]] * 4, rtol=1e-5)


def test_authors_recipe() -> None:
    (phase,) = STFPM.build(toy_teacher(), STFPM.paper).phases()
    optimizer = phase.optimizer(phase.module.parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.4, 0.9, 1e-4)
    assert (phase.epochs, phase.batch_size) == (100, 32)
    assert {phase.schedule(progress) for progress in (0.001, 0.5, 0.999)} == {1.0}


def test_student_has_the_teachers_architecture_and_other_weights() -> None:
    detector = STFPM.build(toy_teacher(), {})
    teacher, student = detector.teacher.network.state_dict(), detector.student.state_dict()
    assert {k: v.shape for k, v in teacher.items()} == {k: v.shape for k, v in student.items()}
    assert not torch.equal(teacher["stages.0.0.weight"], student["stages.0.0.weight"])
