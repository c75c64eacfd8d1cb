"""Uninformed students against the paper's formulas, worked out by hand."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import MadeNormals, combined, known_levels, levels_of, one_batch
from torch import nn
from toys import SIDE, toy_normals, toy_teacher

from stillwatch.detectors.blocks.maps import joined_neighbourhoods
from stillwatch.detectors.blocks.patch_distillation import (
    PatchTeacher,
    compactness_loss,
    explained_share,
    knowledge_loss,
    metric_loss,
    patches_and_shifted,
)
from stillwatch.detectors.blocks.patch_networks import PatchNetwork, PatchSize
from stillwatch.detectors.blocks.standardisation import Standardisation
from stillwatch.detectors.uninformed_students import (
    UninformedStudents,
    error_and_variance,
    students_loss,
)
from stillwatch.errors import DetectorError, SettingsError, TrainingError
from stillwatch.geometry import fitted
from stillwatch.settings import TrainingSettings
from stillwatch.teachers.architectures import Architecture
from stillwatch.teachers.networks import Teacher, images_to_input
from stillwatch.training.job import EpochReport
from stillwatch.training.loop import TrainingSummary, train

PIXELS = {
    "student_input": "pixels",
    "patch_sizes": (33,),
    "students": 2,
    "window": 5,
    "teacher_batch_size": 12,
}


def on_pixels(**values: Any) -> UninformedStudents:
    return UninformedStudents.build(toy_teacher(), PIXELS | values)


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
    # The second value is twice the first, the third is uncorrelated: of 6 pairs, 2 have c = 1.
    descriptors = torch.tensor([[1.0, 2, 1], [2, 4, -2], [3, 6, 1]])
    assert compactness_loss(descriptors) == pytest.approx(2 / 6, abs=1e-5)


def test_compactness_does_not_grow_with_the_number_of_dimensions() -> None:
    # All dimensions alike: every c is 1, whether there are 3 of them or the 128 of a descriptor.
    for dimensions in (3, 128):
        descriptors = torch.tensor([[1.0], [-1.0], [2.0]]).expand(3, dimensions)
        assert compactness_loss(descriptors) == pytest.approx(1, abs=1e-5)


def test_explained_share() -> None:
    # Columns (0, 2) and (1, 5), means 1 and 3: squares 1 + 1 + 4 + 4. Errors 1 and 2: 1 + 4.
    wanted = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    assert explained_share(wanted, wanted) == 1
    assert explained_share(wanted, torch.tensor([[1.0, 1.0], [2.0, 3.0]])) == pytest.approx(0.5)
    assert explained_share(wanted, torch.tensor([[1.0, 3.0], [1.0, 3.0]])) == 0


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
    -1 in both pairs, and L_c is 1. In all 1.5 · 2 + 4 · 0.5 + 0.25 · 1.
    """
    detector = on_pixels(knowledge_weight=1.5, metric_weight=4, compactness_weight=0.25)
    described = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    detector.teacher = FixedNetwork([torch.tensor([[0.5, 2], [0, 0.5]]).view(2, 2, 1, 1)])
    teacher = FixedNetwork(described)
    teacher.network = PatchNetwork(17)
    teacher.decoder = teacher.pretrained = nn.Identity()
    batch = one_batch(toy_normals(2), toy_teacher())
    assert detector._teacher_loss(teacher, batch).item() == pytest.approx(5.25, abs=1e-4)


def test_map_is_the_mean_over_the_patch_sizes_of_both_standardised() -> None:
    """Errors and variances of two patch sizes are -1 and 1, 1 and 9, 0 and 2, 3 and 5 on normals.

    (2 - 0) / 1 + (5 - 5) / 4 = 2 at one size, (3 - 1) / 1 + (6 - 4) / 1 = 4 at the other.
    """
    normals = [
        known_levels([torch.full((4, 4), value) for value in values], (8,) * 4)
        for values in ((-1.0, 1.0, 0.0, 3.0), (1.0, 9.0, 2.0, 5.0))
    ]
    combination = on_pixels(patch_sizes=(17, 33)).combination(normals, 4.0)
    assert combination.sigma is None
    image = known_levels([torch.full((4, 4), value) for value in (2.0, 5.0, 3.0, 6.0)], (8,) * 4)
    np.testing.assert_allclose(combined([image], combination)[0], np.full((8, 8), 3.0), rtol=1e-5)


def test_a_patch_teacher_that_would_learn_nothing_is_refused() -> None:
    nothing = {"knowledge_weight": 0}
    with pytest.raises(SettingsError, match=r"With knowledge_weight 0 set metric_weight to 1"):
        UninformedStudents.build(toy_teacher(), nothing)
    UninformedStudents.build(toy_teacher(), {**nothing, "metric_weight": 1})


def test_map_adds_both_in_units_of_their_spread_on_normals() -> None:
    detector = on_pixels(stride=4)
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
    detector = on_pixels(window=None, stride=4)
    batch = one_batch(toy_normals(2), detector.teacher)
    (scale,) = detector.scales
    with torch.no_grad():
        wanted = scale.target(scale.teacher.network.dense(batch.images, 4))
        expected = students_loss([s.dense(batch.images, 4) for s in scale.students], wanted)
        assert detector.phases()[1].loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def known_teacher(detector: UninformedStudents, decoded: float) -> FixedNetwork:
    """A patch teacher whose descriptors of 12 patches are decoded as ``decoded`` times 1 and -1.

    Those of the pretrained network are 5 and 1, standardised 1 and -1. All have two equal values.
    """
    signs = torch.tensor([1.0, -1.0]).repeat(6)[:, None].expand(12, 2)
    detector.teacher = FixedNetwork([(3 + 2 * signs)[..., None, None]])
    teacher = FixedNetwork(decoded * signs)
    teacher.network = PatchNetwork(17)
    teacher.decoder = nn.Identity()
    teacher.pretrained = Standardisation(2)
    return teacher


def test_pretrained_descriptors_are_standardised_before_they_are_taught() -> None:
    """By their mean 3 and deviation 2; L_k of the decoded 0.5 and -0.5 is then 2 · 0.5^2."""
    detector = on_pixels(compactness_weight=0)
    teacher = known_teacher(detector, 0.5)
    normals = MadeNormals(toy_normals(12), toy_teacher(), batch_size=4)
    detector._measure_pretrained(teacher, normals)
    assert teacher.pretrained.mean.flatten().tolist() == pytest.approx([3, 3])
    assert teacher.pretrained.std.flatten().tolist() == pytest.approx([2, 2])
    batch = one_batch(toy_normals(3), toy_teacher())
    assert detector._teacher_loss(teacher, batch).item() == pytest.approx(0.5)


def test_every_step_has_all_the_patches_however_few_the_images() -> None:
    detector = on_pixels(teacher_batch_size=128)
    (scale,) = detector.scales
    for count in (3, 130):
        images = torch.rand(1, 3, 64, 64).expand(count, 3, 64, 64)
        patches, shifted = detector._patches(scale.teacher, SimpleNamespace(images=images))
        assert len(patches) == len(shifted) == 128


def test_the_check_gives_r2_on_held_out_images_and_refuses_a_teacher_that_knows_nothing() -> None:
    """Wanted 1 and -1: decoded as 0.5 and -0.5, R^2 is 1 - 0.25; as 0.1 and -0.1, 1 - 0.81."""
    detector = on_pixels()
    normals = MadeNormals(toy_normals(5), toy_teacher(), batch_size=3)
    for decoded, expected in ((0.5, 0.75), (0.1, 0.19)):
        teacher = known_teacher(detector, decoded)
        detector._measure_pretrained(teacher, normals)
        if expected > 0.3:
            assert detector._check_teacher(teacher, normals) == {"r2": pytest.approx(expected)}
            continue
        with pytest.raises(TrainingError, match=r"17 pixels .* is 0\.19 .*teacher_steps.*features"):
            detector._check_teacher(teacher, normals)


def test_no_student_is_trained_on_a_patch_teacher_that_knows_nothing() -> None:
    detector = on_pixels(teacher_steps=1)
    seen: list[str] = []
    with pytest.raises(TrainingError, match=r"patch teacher of 33 pixels has not learnt"):
        trained(detector, on_epoch=lambda report: seen.append(report.phase))
    assert seen == ["patch teacher 33"]


def trained(
    detector: UninformedStudents,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
) -> TrainingSummary:
    return train(
        detector,
        train_images=list(toy_normals(6)),
        validation_images=list(toy_normals(3, first=100)),
        geometry=fitted([(SIDE, SIDE)], SIDE),
        settings=TrainingSettings(),
        device=torch.device("cpu"),
        checkpoint=None,
        on_epoch=on_epoch,
    )


def test_students_of_features_by_hand() -> None:
    """Joined levels of 3 and 5 away from the border, less the means 1 and 2: 2 and 3.

    Students say (1, 1) and (3, 5): mean (2, 3), so that e is 0 and v (2 + 34) / 2 - 13.
    """
    detector = UninformedStudents.build(toy_teacher(), {"students": 2})
    features = [
        torch.full((1, 1, side, side), value) for side, value in ((96, 1.0), (48, 3.0), (24, 5.0))
    ]
    detector.teacher = FixedNetwork(features)
    detector.target = Standardisation(2)
    detector.target.mean[:, 0, 0] = torch.tensor([1.0, 2.0])
    said = [torch.tensor(x).view(1, 2, 1, 1).expand(1, 2, 48, 48) for x in ([1.0, 1.0], [3.0, 5.0])]
    detector.students = nn.ModuleList(map(FixedNetwork, said))
    error, variance = detector.level_maps(torch.zeros(1, 3, 384, 384))
    assert error.shape == variance.shape == (1, 48, 48)
    assert error[0, 24, 24].item() == pytest.approx(0, abs=1e-6)
    assert variance[0, 24, 24].item() == pytest.approx(5)
    wanted = detector.target(joined_neighbourhoods(*features[1:]))
    expected = students_loss(said, wanted)
    assert detector.phases()[0].loss(SimpleNamespace(features=features)) == expected


def test_a_patch_and_its_shifted_self_are_of_the_same_place() -> None:
    torch.manual_seed(0)
    waves = torch.sin(torch.arange(256.0) / 20)
    images = (0.5 + 0.4 * waves[:, None] * waves).expand(8, 3, 256, 256)
    patches, shifted = patches_and_shifted(images.unbind(), 17)
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
    patches, shifted = patches_and_shifted(images.unbind(), patch_size)
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
    values = {**PIXELS, "knowledge_weight": 0, "metric_weight": 1}
    made = Architecture(nn.Module, (5,), (0.5,) * 3, (0.25,) * 3)  # no forward
    unable = Teacher("unable", "0" * 64, made)
    detector = UninformedStudents.build(unable, values)
    batch = one_batch(toy_normals(6), detector.teacher)
    phase = detector.phases()[0]
    assert phase.loss(batch).isfinite()
    assert json.loads(phase.shared_as or "")["settings"]["metric_weight"] == 1


def test_images_smaller_than_a_patch_are_refused() -> None:
    detector = on_pixels(patch_sizes=[65])
    with pytest.raises(DetectorError, match=r"64×64 pixels are smaller than the 65.*images\.size"):
        detector.prepare(MadeNormals(toy_normals(2), detector.teacher))


def test_a_patch_size_is_named_once() -> None:
    with pytest.raises(SettingsError, match=r"patch_sizes: names a patch size twice"):
        UninformedStudents.build(toy_teacher(), {"patch_sizes": [33, 33]})
