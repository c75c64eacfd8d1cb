"""The detection methods, one module each.

A module in this package that defines a ``Detector`` is found by itself. ``base`` says what a
detector must provide; ``blocks`` holds the parts that several methods share.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from stillwatch.detectors.base import Detector
from stillwatch.errors import DetectorError
from stillwatch.machine.devices import choose_profile
from stillwatch.sections import Section, parse_section
from stillwatch.settings import Profile, Settings
from stillwatch.teachers.networks import Teacher
from stillwatch.text import unknown_name

__all__ = [
    "Detector",
    "build_detector",
    "changed_from_profile",
    "detector_class",
    "detector_classes",
    "detector_settings",
    "parse_detector_settings",
]


@cache
def detector_classes() -> dict[str, type[Detector]]:
    """Every method by its name, in alphabetical order."""
    found = {
        value.name: value
        for module in pkgutil.iter_modules(__path__, f"{__name__}.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, type) and issubclass(value, Detector) and not inspect.isabstract(value)
    }
    return dict(sorted(found.items()))


def detector_class(name: str) -> type[Detector]:
    """The method called ``name``."""
    classes = detector_classes()
    if name not in classes:
        raise DetectorError(f"{unknown_name('detector', name, list(classes))}.")
    return classes[name]


def parse_detector_settings(
    name: str, values: Mapping[str, Any], profile: Profile = "laptop"
) -> Section:
    """A method's settings: those of ``profile``, but for what ``values`` says.

    Raises:
        DetectorError: no such method.
        SettingsError: an unknown key or a value out of range.
    """
    method = detector_class(name)
    published = method.paper if profile == "paper" else {}
    return parse_section(method.Settings, {**published, **values}, where=f"detectors.{name}")


def detector_settings(name: str, settings: Settings) -> Section:
    """A method's settings from what ``params.yaml`` says about it, in this machine's profile.

    Raises:
        DetectorError: no such method.
        SettingsError: an unknown key, a value out of range, or a GPU that is not there.
    """
    own = settings.detectors.get(name, {})
    return parse_detector_settings(name, own, choose_profile(settings.training))


def changed_from_profile(name: str, values: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """What of a method's settings is not as ``profile`` has it.

    Args:
        name: of the method.
        values: all its settings, as in JSON.
        profile: to hold them against.
    """
    usual = parse_detector_settings(name, {}, profile).model_dump(mode="json")
    return {key: value for key, value in values.items() if usual.get(key) != value}


def build_detector(
    name: str, teacher: Teacher, values: Mapping[str, Any], *, seed: int = 0
) -> Detector:
    """A method's untrained detector; its weights depend on ``seed`` alone.

    Raises:
        DetectorError: no such method, or one that cannot work with this teacher or these settings.
        SettingsError: an unknown key or a value out of range.
    """
    return detector_class(name).build(teacher, values, seed=seed)
