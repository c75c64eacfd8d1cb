"""A benchmark's cells: one JSON file each, and what is there is not run again."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stillwatch.detectors import detector_class, detector_classes
from stillwatch.files import write_json

Cell = Mapping[str, Any]


def complete(
    file: Path,
    settings: dict[str, Any],
    run: Callable[[], Cell],
) -> None:
    """Write what ``run`` gives and the settings to ``file``, unless it holds that cell already."""
    if not is_there(file, settings):
        write_json(file, {**run(), "settings": settings})
    print(f"{file}: done", flush=True)


def of_method(file: Path, detector: str, run: Callable[[], Cell]) -> Cell:
    """The cell of a method in ``file``, run first if it is not there in the method's version."""
    complete(file, {"method_version": detector_class(detector).version}, run)
    return dict(json.loads(file.read_bytes()))


def is_there(file: Path, settings: dict[str, Any]) -> bool:
    """Whether ``file`` holds a cell with these settings."""
    return file.exists() and bool(json.loads(file.read_bytes()).get("settings") == settings)


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
    version = cell.get("settings", {}).get("method_version")
    if version is None:
        return True
    method = detector_classes().get(cell["detector"])
    return method is not None and method.version == version
