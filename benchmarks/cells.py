"""A benchmark's cells: one JSON file each, and what is there is not run again."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stillwatch.detectors import changed_from_profile, detector_class
from stillwatch.files import write_json
from stillwatch.settings import Profile
from stillwatch.teachers import NO_TEACHER

Cell = Mapping[str, Any]


def complete(file: Path, settings: dict[str, Any], run: Callable[[], Cell]) -> None:
    """Write what ``run`` gives and the settings to ``file``, unless it holds that cell already."""
    if not is_there(file, settings):
        write_json(file, {**run(), "settings": settings})
    print(f"{file}: done", flush=True)


def is_there(file: Path, settings: dict[str, Any]) -> bool:
    """Whether ``file`` holds a cell with these settings."""
    return file.exists() and json.loads(file.read_bytes())["settings"] == settings


def changed_settings(detector: str, profile: Profile, values: Mapping[str, Any]) -> list[str]:
    """``name=value`` for each of a method's settings that is not its profile's own."""
    different = changed_from_profile(detector, values, profile)
    return [f"{name}={value}" for name, value in different.items()]


def needed_teacher(detector: str, teacher: str, values: Mapping[str, Any]) -> str:
    """The teacher's name, or ``none`` where a method needs none with all these settings."""
    strides = detector_class(detector).teacher_strides(teacher, values)
    return teacher if strides else NO_TEACHER


def read_cells(folder: Path) -> Iterator[Cell]:
    """All cells in ``folder``, in the order of their files."""
    for file in sorted(folder.glob("*.json")):
        yield json.loads(file.read_bytes())


def write_page(page: Path, text: str) -> None:
    """Write a page that was made of cells."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    print(f"{page}: written")
