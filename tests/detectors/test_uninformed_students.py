"""Uninformed students against the paper's formulas, worked out by hand."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from stillwatch.detectors.patch_distillation import (
    PatchTeacher,
    compactness_loss,
    knowledge_loss,
    metric_loss,
    patches_and_shifted,
)
from stillwatch.detectors.toys import toy_normals, toy_teacher
from stillwatch.detectors.uninformed_students import (
    UninformedStudents,
    error_and_variance,
    students_loss,
)
from stillwatch.errors import DetectorError, SettingsError
from stillwatch.teachers import Teacher, images_to_input
from stillwatch.training_data import ImagePool


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


def test_map_adds_both_in_units_of_their_spread_on_normals() -> None:
    detector = UninformedStudents.build(toy_teacher(), {**UninformedStudents.quick, "stride": 4})
    normals = ImagePool(toy_normals(3), detector.teacher, torch.device("cpu"))
    images = images_to_input(torch.from_numpy(toy_normals(2, first=50)))
    (scale,) = detector.scales
    with torch.no_grad():
        detector.finalize(normals.batches(2))
        own = scale.errors_and_variances(normals.images(torch.arange(3)), 4).numpy()
        e, v = np.moveaxis(scale.errors_and_variances(images, 4).numpy(), 1, 0)
        found = detector.anomaly_map(images)
    expected = (e - own[:, 0].mean()) / own[:, 0].std() + (v - own[:, 1].mean()) / own[:, 1].std()
    coarse = torch.nn.functional.avg_pool2d(found, 4).numpy()
    inner = (slice(None), slice(2, -2), slice(2, -2))
    assert np.corrcoef(coarse[inner].ravel(), expected[inner].ravel())[0, 1] > 0.95
    assert found.mean() == pytest.approx(expected.mean(), rel=0.05)


def test_students_learn_the_mirrored_surroundings_that_are_scored() -> None:
    detector = UninformedStudents.build(
        toy_teacher(), {**UninformedStudents.quick, "window": None, "stride": 4}
    )
    (batch,) = ImagePool(toy_normals(2), detector.teacher, torch.device("cpu")).batches(2)
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
    (batch,) = ImagePool(toy_normals(6), detector.teacher, torch.device("cpu")).batches(6)
    phase = detector.phases()[0]
    assert phase.loss(batch).isfinite()
    assert json.loads(phase.shared_as or "")["settings"]["metric_weight"] == 1


def test_images_smaller_than_a_patch_are_refused() -> None:
    detector = UninformedStudents.build(toy_teacher(), {"patch_sizes": [65]})
    normals = ImagePool(toy_normals(2), detector.teacher, torch.device("cpu"))
    with pytest.raises(DetectorError, match=r"64×64 pixels are smaller than the 65.*images\.size"):
        detector.prepare(normals.batches(2))


def test_a_patch_size_is_named_once() -> None:
    with pytest.raises(SettingsError, match=r"patch_sizes: names a patch size twice"):
        UninformedStudents.build(toy_teacher(), {"patch_sizes": [33, 33]})
