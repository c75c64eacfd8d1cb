"""Every method passes the battery; a method added as one more file is found here by itself."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import pytest
import torch
from battery import CHECKS, Trial, check_export
from toys import toy_normals

from stillwatch.detectors import detector_classes
from stillwatch.detectors.base import Detector
from stillwatch.detectors.destseg import DeSTSeg
from stillwatch.detectors.efficient_ad import EfficientAD
from stillwatch.detectors.uninformed_students import UninformedStudents
from stillwatch.errors import DetectorError
from stillwatch.geometry import Shape, fitted
from stillwatch.settings import Settings, TrainingSettings
from stillwatch.training.loop import train


class DeSTSegOfPixels(DeSTSeg):
    quick: ClassVar = {**DeSTSeg.quick, "student_input": "pixels"}


class EfficientADOfPixels(EfficientAD):
    quick: ClassVar = {
        "student_input": "pixels",
        "steps": 60,
        "batch_size": 1,
        "optimizer": "adam",
        "learning_rate": 0.004,
        "hard_share": 0.01,
        "teacher_steps": 4,
        "teacher_learning_rate": 0.004,
        "teacher_batch_size": 6,
    }


class UninformedStudentsOfPixels(UninformedStudents):
    """The patch teacher has the metric loss: in so few steps it learns no pretrained descriptor."""

    quick: ClassVar = {
        "student_input": "pixels",
        "patch_sizes": (33,),
        "students": 2,
        "epochs": 2,
        "least_steps": 1,
        "batch_size": 4,
        "window": 5,
        "teacher_steps": 2,
        "teacher_batch_size": 12,
        "knowledge_weight": 0,
        "metric_weight": 1,
    }


METHODS: dict[str, type[Detector]] = {
    **detector_classes(),
    "destseg of pixels": DeSTSegOfPixels,
    "efficient_ad of pixels": EfficientADOfPixels,
    "uninformed_students of pixels": UninformedStudentsOfPixels,
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def grouped(name: str) -> object:
    """One worker runs all checks of a method, which share a training."""
    slow = () if name in detector_classes() else (pytest.mark.slow,)
    return pytest.param(name, marks=(pytest.mark.xdist_group(f"contract of {name}"), *slow))


@pytest.fixture(scope="module", params=map(grouped, METHODS))
def trial(request: pytest.FixtureRequest, device: str) -> Trial:
    return Trial(METHODS[request.param], device)


CHEAP_CHECKS = [check for check in CHECKS if check is not check_export]


@pytest.mark.parametrize("check", CHEAP_CHECKS, ids=lambda check: check.__name__)
def test_method_keeps_the_contract(trial: Trial, check: Callable[[Trial], None]) -> None:
    check(trial)


def exported(name: str) -> object:
    """Writing a graph takes seconds: ``make test`` does so for the methods that compete."""
    slow = () if name in Settings().retrain.detectors else (pytest.mark.slow,)
    return pytest.param(name, marks=(pytest.mark.xdist_group(f"contract of {name}"), *slow))


@pytest.mark.parametrize("trial", list(map(exported, METHODS)), indirect=True)
def test_an_export_of_a_method_gives_the_same_maps(trial: Trial) -> None:
    check_export(trial)


TOO_SMALL = {
    "destseg": {(32, 32)},
    "destseg of pixels": {(32, 32)},
    "efficient_ad of pixels": {(32, 32), (32, 64)},
    "rd_plus_plus": {(32, 32)},
    "reverse_distillation": {(32, 32)},
    "uninformed_students of pixels": {(32, 32), (32, 64)},
}


@pytest.mark.parametrize("shape", [(32, 32), (32, 64)])
@pytest.mark.parametrize("name", list(map(grouped, METHODS)))
def test_method_learns_from_one_small_tile_or_says_which_setting_to_raise(
    name: str, shape: Shape
) -> None:
    tile = toy_normals(1)[0, : shape[0], : shape[1]]
    refusal: AbstractContextManager[object] = nullcontext()
    if shape in TOO_SMALL.get(name, ()):
        refusal = pytest.raises(DetectorError, match=r"Raise images\.size")
    with refusal:
        train(
            Trial(METHODS[name]).untrained(),
            train_images=[tile],
            validation_images=[tile],
            geometry=fitted([shape], max(shape)),
            settings=TrainingSettings(),
            device=torch.device("cpu"),
            checkpoint=None,
            on_epoch=lambda _: None,
        )


@pytest.mark.parametrize("name", detector_classes())
def test_method_says_what_it_is(name: str) -> None:
    method = detector_classes()[name]
    assert name == method.name
    assert isinstance(method.version, int)
    module = __import__(method.__module__, fromlist=["__doc__"])
    assert re.search("arXiv|IEEE", module.__doc__ or ""), "the docstring names the paper"
    assert "docs/results.md" in (module.__doc__ or ""), "and where its figures are"
    assert method.Settings() == method.Settings.model_validate({}), "every setting has a default"
    method.Settings.model_validate(dict(method.paper))
    for key, field in method.Settings.model_fields.items():
        assert field.description, f"{key} is not described"
