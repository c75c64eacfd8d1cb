"""A benchmark's cells: one JSON file each, and what is there is not run again."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stillwatch.detectors import (
    changed_from_profile,
    detector_class,
    detector_classes,
    parse_detector_settings,
)
from stillwatch.files import write_json
from stillwatch.settings import Profile
from stillwatch.teachers.networks import NO_TEACHER

Cell = Mapping[str, Any]


def complete(
    file: Path,
    settings: dict[str, Any],
    run: Callable[[], Cell],
    *,
    category_digest: str | None = None,
) -> None:
    """Write what ``run`` gives and the settings to ``file``, unless it holds that cell already."""
    if not is_there(file, settings, category_digest):
        write_json(file, {**run(), "settings": settings})
    print(f"{file}: done", flush=True)


def is_there(file: Path, settings: dict[str, Any], category_digest: str | None = None) -> bool:
    """Whether ``file`` holds a cell with these settings, of these images.

    A cell that does not say of which images it is counts as one of these.
    """
    if not file.exists():
        return False
    cell = json.loads(file.read_bytes())
    same_images = cell.get("category_digest", category_digest) == category_digest
    return bool(cell["settings"] == settings and same_images)


def changed_settings(detector: str, profile: Profile, values: Mapping[str, Any]) -> list[str]:
    """``name=value`` for each of a method's settings that is not its profile's own."""
    return _listed(changed_from_profile(detector, values, profile))


def labelled_settings(detector: str, profile: Profile, values: Mapping[str, Any]) -> str:
    """The profile and what differs from it, that which is as published last and called so."""
    published = parse_detector_settings(detector, {}, "paper").model_dump(mode="json")
    changed = changed_from_profile(detector, values, profile)
    as_published = {name: value for name, value in changed.items() if published.get(name) == value}
    own = {name: value for name, value in changed.items() if name not in as_published}
    label = ", ".join([profile, *_listed(own)])
    return f"{label}; as published: {', '.join(_listed(as_published))}" if as_published else label


def _listed(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def needed_teacher(detector: str, teacher: str, values: Mapping[str, Any]) -> str:
    """The teacher's name, or ``none`` where a method needs none with all these settings."""
    strides = detector_class(detector).teacher_strides(teacher, values)
    return teacher if strides else NO_TEACHER


def read_cells(folder: Path) -> Iterator[Cell]:
    """The cells in ``folder``, in the order of their files.

    One of another version of its method than the code's is named and left out: its figures are
    not what the method reaches now, and must not be averaged with those that are.
    """
    for file in sorted(folder.glob("*.json")):
        cell = json.loads(file.read_bytes())
        if is_of_the_code(cell):
            yield cell
        else:
            print(
                f"{file}: left out, since it is of {cell['detector']} in version "
                f"{cell['settings']['method_version']}, and the code has another. Run it again, or "
                "delete it."
            )


def is_of_the_code(cell: Cell) -> bool:
    """Whether a cell is of the code's version of its method."""
    if "method_version" not in cell["settings"]:
        return True
    method = detector_classes().get(cell["detector"])
    return method is not None and method.version == cell["settings"]["method_version"]


def write_page(page: Path, text: str) -> None:
    """Write a page that was made of cells."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    print(f"{page}: written")
