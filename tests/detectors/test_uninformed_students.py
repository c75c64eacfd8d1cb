"""Uninformed students against the paper's formulas, worked out by hand."""

import json

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import MadeNormals, combined, known_levels, levels_of, one_batch
from torch import nn

from stillwatch.detectors.blocks.patch_distillation import (
    PatchTeacher,
    compactness_loss,
    knowledge_loss,
    metric_loss,
    patches_and_shifted,
)
from stillwatch.detectors.blocks.patch_networks import PatchNetwork, PatchSize
from stillwatch.detectors.uninformed_students import (
    UninformedStudents,
    error_and_variance,
    students_loss,
)
from stillwatch.errors import DetectorError, SettingsError
from stillwatch.teachers.networks import Teacher, images_to_input
from stillwatch.testing.toys import toy_normals, toy_teacher


def test_knowledge_loss() -> None:
    # Distances (3, 4) and (0, 1): squares 25 and 1, mean 13.
    decoded, pretrained = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0], [1, 2]])
    assert knowledge_loss(decoded, pretrained) == pytest.approx(13)


def test_metric_loss() -> None:
    anchors = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    positives = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # First: 1 + 1 - min(4, 1) = 1. Second: 1 + 1 - min(9, 16) < 0, so 0.
    negatives = torch.tensor([[2.0, 0.0], [-3.0, 0.0]])
    assert metric_loss(anchors, positives, negatives) == pytest.approx(0.5)


def test_compactness_loss() -> None:
    # The second value is twice the first, the third is uncorrelated: c_12 = 1, counted twice.
    descriptors = torch.tensor([[1.0, 2, 1], [2, 4, -2], [3, 6, 1]])
    assert compactness_loss(descriptors) == pytest.approx(2, abs=1e-5)


def test_students_loss() -> None:
    wanted = torch.zeros(1, 2, 1, 2)
    first = torch.tensor([[[[1.0, 0.0]], [[2.0, 0.0]]]])  # (1 + 4 + 0 + 0) / 2 positions
    second = torch.tensor([[[[0.0, 3.0]], [[0.0, 1.0]]]])  # (9 + 1) / 2
    assert students_loss([first, second], wanted) == pytest.approx(2.5 + 5)


def test_error_and_variance() -> None:
    # Students (1, 0) and (3, 4) of a wanted (1, 1): mean (2, 2), e = 1 + 1,
    # v = (1 + 25) / 2 - 8.
    students = torch.tensor([[1.0, 0.0], [3.0, 4.0]]).view(2, 1, 2, 1, 1)
    error, variance = error_and_variance(students, torch.ones(1, 2, 1, 1))
    assert error.item() == pytest.approx(2)
    assert variance.item() == pytest.approx(5)


def test_the_teachers_losses_are_added_with_their_weights() -> None:
    """Descriptors (0.5, 0) and (0, 0.5), decoded as they are, of (0.5, 2) and (0, 0.5).

    L_k is (4 + 0) / 2. Each one's positive is itself and its negative the other, at a squared
    distance of 0.5, so that L_m is 1 - 0.5. Centred, the values are each other's negatives: c_12 is
    -1, counted twice. In all 1.5 · 2 + 4 · 0.5 + 0.25 · 2.
    """
    weights = {"knowledge_weight": 1.5, "metric_weight": 4, "compactness_weight": 0.25}
    detector = UninformedStudents.build(toy_teacher(), {**UninformedStudents.quick, **weights})
    described = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    detector.teacher = FixedNetwork([torch.tensor([[0.5, 2], [0, 0.5]]).view(2, 2, 1, 1)])
    teacher = FixedNetwork(described)
    teacher.network = PatchNetwork(17)
    teacher.decoder = nn.Identity()
    batch = one_batch(toy_normals(2), toy_teacher())
    assert detector._teacher_loss(teacher, batch).item() == pytest.approx(5.5, abs=1e-4)


def test_map_is_the_mean_over_the_patch_sizes_of_both_standardised() -> None:
    """Errors and variances of two patch sizes are -1 and 1, 1 and 9, 0 and 2, 3 and 5 on normals.

    (2 - 0) / 1 + (5 - 5) / 4 = 2 at one size, (3 - 1) / 1 + (6 - 4) / 1 = 4 at the other.
    """
    normals = [
        known_levels([torch.full((4, 4), value) for value in values], (8,) * 4)
        for values in ((-1.0, 1.0, 0.0, 3.0), (1.0, 9.0, 2.0, 5.0))
    ]
    sizes = {**UninformedStudents.quick, "patch_sizes": (17, 33)}
    combination = UninformedStudents.build(toy_teacher(), sizes).combination(normals, 4.0)
    assert combination.sigma is None
    image = known_levels([torch.full((4, 4), value) for value in (2.0, 5.0, 3.0, 6.0)], (8,) * 4)
    np.testing.assert_allclose(combined([image], combination)[0], np.full((8, 8), 3.0), rtol=1e-5)


def test_a_patch_teacher_that_would_learn_nothing_is_refused() -> None:
    nothing = {"knowledge_weight": 0}
    with pytest.raises(SettingsError, match=r"With knowledge_weight 0 set metric_weight to 1"):
        UninformedStudents.build(toy_teacher(), nothing)
    UninformedStudents.build(toy_teacher(), {**nothing, "metric_weight": 1})


def test_map_adds_both_in_units_of_their_spread_on_normals() -> None:
    detector = UninformedStudents.build(toy_teacher(), {**UninformedStudents.quick, "stride": 4})
    (scale,) = detector.scales

    def errors_and_variances(images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            found = scale.errors_and_variances(images_to_input(torch.from_numpy(images)), 4)
        return list(found.transpose(0, 1).numpy())

    combination = detector.combination(levels_of(detector, toy_normals(3)), 4.0)
    images = toy_normals(2, first=50)
    expected = sum(
        (one - own.mean()) / own.std()
        for one, own in zip(
            errors_and_variances(images), errors_and_variances(toy_normals(3)), strict=True
        )
    )
    found = combined(levels_of(detector, images), combination)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_students_learn_the_mirrored_surroundings_that_are_scored() -> None:
    detector = UninformedStudents.build(
        toy_teacher(), {**UninformedStudents.quick, "window": None, "stride": 4}
    )
    batch = one_batch(toy_normals(2), detector.teacher)
    (scale,) = detector.scales
    with torch.no_grad():
        wanted = scale.target(scale.teacher.network.dense(batch.images, 4))
        expected = students_loss([s.dense(batch.images, 4) for s in scale.students], wanted)
        assert detector.phases()[1].loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_patch_and_its_shifted_self_are_of_the_same_place() -> None:
    torch.manual_seed(0)
    waves = torch.sin(torch.arange(256.0) / 20)
    images = (0.5 + 0.4 * waves[:, None] * waves).expand(8, 3, 256, 256)
    patches, shifted = patches_and_shifted(images, 17)
    assert patches.shape == shifted.shape == (8, 3, 17, 17)
    assert 0.05 < (patches - shifted).std() < 0.4


@pytest.mark.parametrize("patch_size", [17, 65])
def test_patches_are_zoomed_and_shifted_as_the_authors_do(patch_size: PatchSize) -> None:
    """Images whose red says which row it is and whose green which column, in thousandths.

    A patch of an image zoomed to z times the patch spans a zth of its side. Rows are 1000 / 512
    apart, far more than the noise of 0.1; blue is 0, and nothing but noise after the shift.
    """
    torch.manual_seed(0)
    ramp = torch.arange(512.0) / 512 * 1000
    rows, columns = ramp[:, None].expand(512, 512), ramp.expand(512, 512)
    images = torch.stack([rows, columns, torch.zeros(512, 512)]).expand(300, 3, 512, 512)
    patches, shifted = patches_and_shifted(images, patch_size)
    coloured = (patches[:, 2] == 0).flatten(1).all(dim=1)
    assert 0.05 < 1 - coloured.double().mean() < 0.15, "a tenth has lost its colours"

    assert shifted[coloured, 2].std().item() == pytest.approx(0.1, rel=0.02)

    patches, shifted = patches[coloured, :2], shifted[coloured, :2]
    slopes = (patches[:, 0, -3] - patches[:, 0, 2]).mean(dim=1) / (patch_size - 5)
    zooms = 1000 / (slopes * patch_size)
    assert 3.9 < zooms.min() < 4.3
    assert 15.7 < zooms.max() < 16.4
    assert 9.5 < zooms.mean() < 10.5

    inner = (..., slice(2, -2), slice(2, -2))
    moved = (shifted - patches)[inner].mean(dim=(2, 3)) / slopes[:, None]
    furthest = (patch_size - 1) / 4
    assert moved.max().item() == pytest.approx(furthest, abs=0.2)
    assert moved.min().item() == pytest.approx(-furthest, abs=0.2)


def test_a_patch_teacher_is_the_same_for_every_seed() -> None:
    torch.manual_seed(1)
    first = PatchTeacher(17, 5).state_dict()
    torch.manual_seed(2)
    second = PatchTeacher(17, 5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_a_pretrained_network_the_teacher_is_not_asked() -> None:
    values = {**UninformedStudents.quick, "knowledge_weight": 0, "metric_weight": 1}
    unable = Teacher("unable", "0" * 64, nn.Module, (5,), (0.5,) * 3, (0.25,) * 3)  # no forward
    detector = UninformedStudents.build(unable, values)
    batch = one_batch(toy_normals(6), detector.teacher)
    phase = detector.phases()[0]
    assert phase.loss(batch).isfinite()
    assert json.loads(phase.shared_as or "")["settings"]["metric_weight"] == 1


def test_images_smaller_than_a_patch_are_refused() -> None:
    detector = UninformedStudents.build(toy_teacher(), {"patch_sizes": [65]})
    with pytest.raises(DetectorError, match=r"64×64 pixels are smaller than the 65.*images\.size"):
        detector.prepare(MadeNormals(toy_normals(2), detector.teacher))


def test_a_patch_size_is_named_once() -> None:
    with pytest.raises(SettingsError, match=r"patch_sizes: names a patch size twice"):
        UninformedStudents.build(toy_teacher(), {"patch_sizes": [33, 33]})
