"""The profile ``paper`` of each method against the figures of its paper or its authors' code."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from toys import toy_teacher

from stillwatch.detectors import detector_classes
from stillwatch.detectors.base import Detector
from stillwatch.teachers.architectures import Architecture
from stillwatch.teachers.networks import Teacher


@dataclass(frozen=True)
class Recipe:
    """How one network is trained."""

    rate: float
    decay: float
    batch: int
    epochs: int
    least_steps: int
    factors: tuple[float, ...] = (1, 1, 1, 1)
    """On the rate: at the beginning, in the middle, just before the last twentieth, at the end."""


STUDENTS = Recipe(1e-4, 1e-5, 1, 100, 1)
PATCH_TEACHER = Recipe(2e-4, 1e-5, 64, 1, 50_000)
RECIPES = {
    "efficient_ad": {
        "patch teacher small": Recipe(1e-4, 1e-5, 16, 1, 60_000),
        "student and autoencoder": Recipe(1e-4, 1e-5, 1, 1, 70_000, factors=(1, 1, 1, 0.1)),
    },
    "uninformed_students": {
        f"{kind} {size}": recipe
        for size in (17, 33, 65)
        for kind, recipe in (("patch teacher", PATCH_TEACHER), ("students", STUDENTS))
    },
    "multiresolution": {"cloner": Recipe(1e-3, 0, 64, 601, 1)},
    "patchcore": {},
    "asymmetric_student_teacher": {
        name: Recipe(2e-4, 1e-5, 8, 240, 1) for name in ("flow", "student")
    },
}
SETTINGS = {
    "efficient_ad": {"student_input": "pixels", "network": "small", "hard_share": 0.001},
    "uninformed_students": {
        "student_input": "pixels",
        "students": 3,
        "stride": 1,
        "window": None,
        "knowledge_weight": 1,
        "metric_weight": 0,
        "compactness_weight": 1,
    },
    "multiresolution": {"cloner": "compact"},
    "patchcore": {"coreset": 0.1},
    "asymmetric_student_teacher": {"width": 1024},
}


def published(name: str) -> Detector:
    method = detector_classes()[name]
    with torch.device("meta"):  # the published widths, without memory for the weights
        return method.build(toy_teacher(), method.paper)


@pytest.mark.parametrize("name", RECIPES)
def test_networks_are_trained_as_published(name: str) -> None:
    found = {}
    for phase in published(name).phases():
        optimizer = phase.optimizer(phase.module.parameters())
        assert type(optimizer) is torch.optim.Adam
        (group,) = optimizer.param_groups
        assert group["betas"] == (0.9, 0.999)
        found[phase.name] = Recipe(
            group["lr"],
            group["weight_decay"],
            phase.batch_size,
            phase.epochs,
            phase.least_steps,
            tuple(phase.schedule(progress) for progress in (0.001, 0.5, 0.949, 0.951)),
        )
    assert found == RECIPES[name]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_those_published(name: str) -> None:
    settings = published(name).settings.model_dump()
    assert {key: settings[key] for key in SETTINGS[name]} == SETTINGS[name]


def test_efficient_ads_channels_are_384_with_the_authors_teacher() -> None:
    method = detector_classes()["efficient_ad"]
    # The levels at strides 8 and 16 of a Wide-ResNet-101; it is not asked for them here.
    made = Architecture(nn.Identity, (512, 1024), (0.5,) * 3, (0.25,) * 3)
    teacher = Teacher("wide", "0" * 64, made)
    detector = method.build(teacher, method.paper)
    widths = {name: len(value) for name, value in detector.state_dict().items()}
    assert widths["patch_teacher.network.8.weight"] == 384
    assert widths["trained.student.8.weight"] == 768
    assert widths["trained.autoencoder.refine.2.weight"] == 384
