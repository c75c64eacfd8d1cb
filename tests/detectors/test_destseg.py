"""DeSTSeg against its formulas, with numbers worked out by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import MadeBatch, combined, levels_of, one_batch
from scipy import ndimage
from torch import nn
from toys import toy_normals, toy_teacher

from stillwatch.detectors.blocks.disturbance import with_defects
from stillwatch.detectors.destseg import (
    DeSTSeg,
    PixelStudent,
    normalised_products,
    segmentation_loss,
)
from stillwatch.teachers.architectures import Architecture
from stillwatch.teachers.networks import Teacher


def levels(*vectors: tuple[float, float]) -> list[torch.Tensor]:
    """Levels of a 16×16 image, each with the same vector at all positions."""
    return [
        torch.tensor(vector).view(1, 2, 1, 1).repeat(1, 1, side, side)
        for vector, side in zip(vectors, (4, 2, 1), strict=True)
    ]


TAUGHT = levels((3.0, 4.0), (5.0, 0.0), (1.0, 1.0))
IMITATED = levels((8.0, 6.0), (0.0, 2.0), (-7.0, -7.0))


def test_student_loss_by_hand() -> None:
    """The cosines are (24 + 24) / (5 · 10) = 0.96, 0 and -1: 0.04 + 1 + 2."""
    detector = DeSTSeg.build(toy_teacher(), {})
    detector.student = FixedNetwork(IMITATED)
    images = torch.full((1, 3, 16, 16), 0.5)
    batch = SimpleNamespace(images=images, features=TAUGHT, photographs=None)
    assert detector.phases()[0].loss(batch).item() == pytest.approx(3.04)


def test_the_student_sees_the_defect_and_must_give_what_is_without() -> None:
    """A student that gives the features that it sees is wrong by what the defect changes."""
    detector = DeSTSeg.build(toy_teacher(), {})
    detector.student = nn.Identity()
    batch = one_batch(toy_normals(3), detector.teacher)
    torch.manual_seed(0)
    loss = detector.phases()[0].loss(batch)
    torch.manual_seed(0)
    defective, _ = with_defects(batch.images)
    pairs = zip(batch.features, detector.teacher(defective), strict=True)
    expected = sum((1 - torch.cosine_similarity(a, b)).mean() for a, b in pairs)
    torch.testing.assert_close(loss, expected)
    assert loss > 0.01


def test_products_by_hand() -> None:
    """(3, 4) / 5 times (8, 6) / 10; (1, 0) times (0, 1); (1, 1) / sqrt 2 times the opposite."""
    found = [product[0, :, 0, 0].tolist() for product in normalised_products(TAUGHT, IMITATED)]
    assert found == [
        pytest.approx([0.48, 0.48]),
        pytest.approx([0, 0]),
        pytest.approx([-0.5, -0.5]),
    ]


@pytest.mark.parametrize(
    ("logit", "mask", "expected"),
    [
        # y = 1/2, and p as well.
        (0.0, 1.0, 0.5**4 * math.log(2) + 0.5),
        # y = 3/4.
        (math.log(3), 1.0, 0.25**4 * math.log(4 / 3) + 0.25),
        (math.log(3), 0.0, 0.75**4 * math.log(4) + 0.75),
    ],
)
def test_segmentation_loss_by_hand(logit: float, mask: float, expected: float) -> None:
    logits, masks = torch.full((2, 4, 4), logit), torch.full((2, 4, 4), mask)
    assert segmentation_loss(logits, masks).item() == pytest.approx(expected)


def test_a_position_is_marked_where_any_of_its_pixels_is() -> None:
    detector = DeSTSeg.build(toy_teacher(), {})
    detector.segmentation = FixedNetwork(torch.full((3, 16, 16), math.log(3)))
    batch = one_batch(toy_normals(3), detector.teacher)
    torch.manual_seed(0)
    loss = detector.phases()[1].loss(batch)
    torch.manual_seed(0)
    _, masks = with_defects(batch.images)
    marked = masks.view(3, 16, 4, 16, 4).any(dim=4).any(dim=2).float().mean().item()
    assert 0.01 < marked < 0.99
    of_defect, elsewhere = (
        0.25**4 * math.log(4 / 3) + 0.25,
        0.75**4 * math.log(4) + 0.75,
    )
    assert loss.item() == pytest.approx(marked * of_defect + (1 - marked) * elsewhere)


def test_photographs_fill_the_defects() -> None:
    detector = DeSTSeg.build(toy_teacher(), {})
    seen: list[torch.Tensor] = []
    detector.teacher.register_forward_hook(lambda _module, given, _made: seen.append(given[0]))
    photographs = torch.ones(3, 3, 128, 128)
    batch = MadeBatch(torch.zeros(3, 3, 64, 64), detector.teacher, photographs)
    torch.manual_seed(0)
    detector.phases()[1].loss(batch)
    (defective,) = seen
    for image in defective:
        opacity = image.max()
        assert opacity >= 0.15
        assert ((image == 0) | (image == opacity)).all()


def test_the_map_is_the_probability() -> None:
    """Of the logit log 3, 3/4."""
    detector = DeSTSeg.build(toy_teacher(), {})
    detector.segmentation = FixedNetwork(torch.full((2, 16, 16), math.log(3)))
    (level,) = detector.level_maps(torch.zeros(2, 3, 64, 64))
    torch.testing.assert_close(level, torch.full((2, 16, 16), 0.75))


@pytest.mark.parametrize("student_input", ["features", "pixels"])
def test_the_map_is_smoothed_unless_as_published(student_input: str) -> None:
    detector = DeSTSeg.build(toy_teacher(), {"student_input": student_input})
    found = levels_of(detector, toy_normals(1))
    (expected,) = found[0].maps
    if student_input == "features":
        expected = ndimage.gaussian_filter(expected, 2.0)
    (made,) = combined(found, detector.combination(found, 8.0))
    assert made == pytest.approx(expected, rel=1e-4)


def test_the_student_is_frozen_while_the_segmentation_is_learnt() -> None:
    detector = DeSTSeg.build(toy_teacher(), {})
    detector.phases()[1].loss(one_batch(toy_normals(3), detector.teacher)).backward()
    assert all(parameter.grad is None for parameter in detector.student.parameters())
    assert all(parameter.grad is not None for parameter in detector.segmentation.parameters())


def published() -> DeSTSeg:
    # The levels of a ResNet-18; no network of the teacher is asked for them here.
    made = Architecture(nn.Identity, (64, 128, 256), (0.5,) * 3, (0.25,) * 3)
    return DeSTSeg.build(Teacher("resnet18", "0" * 64, made), DeSTSeg.paper)


def test_authors_recipe() -> None:
    recipes = []
    for phase in published().phases():
        optimizer = phase.optimizer(phase.module.parameters())
        assert isinstance(optimizer, torch.optim.SGD)
        for group in optimizer.param_groups:
            assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)
            recipes.append((phase.name, phase.least_steps, phase.batch_size, group["lr"]))
        trained = sum(len(group["params"]) for group in optimizer.param_groups)
        assert trained == len(list(phase.module.parameters()))
        assert {phase.schedule(progress) for progress in (0.001, 0.5, 0.999)} == {1.0}
    assert recipes == [
        ("student", 1000, 32, 0.4),
        ("segmentation", 4000, 32, 0.1),
        ("segmentation", 4000, 32, pytest.approx(0.01)),
    ]


def test_authors_widths() -> None:
    shapes = {name: tuple(value.shape) for name, value in published().state_dict().items()}
    assert shapes["segmentation.blocks.0.body.0.weight"] == (256, 448, 3, 3)
    assert shapes["student.bottleneck.0.body.0.weight"] == (512, 256, 3, 3)
    assert shapes["student.decoder.2.2.body.3.weight"] == (64, 64, 3, 3)


def test_a_student_of_pixels_gives_the_teachers_shapes() -> None:
    teacher = toy_teacher()
    images = torch.rand(2, 3, 64, 96)
    student = PixelStudent(teacher).eval()
    shapes = [level.shape for level in student(teacher.normalise(images))]
    assert shapes == [level.shape for level in teacher(images)]
