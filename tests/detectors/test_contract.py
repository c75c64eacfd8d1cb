"""Every method passes the battery; a method added as one more file is found here by itself."""

import re
from collections.abc import Callable

import pytest
import torch

from stillwatch.detectors import detector_classes
from stillwatch.testing.battery import CHECKS, Trial

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def grouped(name: str) -> object:
    """One worker runs all checks of a method, which share a training."""
    return pytest.param(name, marks=pytest.mark.xdist_group(f"contract of {name}"))


@pytest.fixture(scope="module", params=map(grouped, detector_classes()))
def trial(request: pytest.FixtureRequest, device: str) -> Trial:
    return Trial(detector_classes()[request.param], device)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_method_keeps_the_contract(trial: Trial, check: Callable[[Trial], None]) -> None:
    check(trial)


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
