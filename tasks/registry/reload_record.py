"""Record what a registered version was reloaded with, and what of that is different here.

The record is a JSON file among the artifacts of the version's run.
"""

import hashlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version as package_version
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

import stillwatch
from stillwatch.errors import ArtefactError
from stillwatch.machine.gpu_driver import has_gpu_driver
from stillwatch.tasks.registry.model_package import NEEDED
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.entries import JsonArtifact

RELOAD_RECORD = JsonArtifact(
    "reload.json", "Delete the file in the run's artifacts: the version is reloaded instead."
)
_MADE_LATER = ("__pycache__", "registered_model_meta")
"""Files that Python and MLflow add to a model's folder when the model is loaded."""


def record_reload(
    tracking: Tracking, version: ModelVersion, package: Path, device: str, tolerance: float
) -> None:
    """Record that a version was reloaded on this machine with the scores of its evaluation.

    Args:
        package: the folder of the model.
        device: on which the version was reloaded: ``auto``, ``cpu`` or ``cuda[:i]``.
        tolerance: the largest difference of scores that counted as equal.

    Raises:
        SettingsError: there is no such GPU.
    """
    record = {
        "version": int(version.version),
        "tolerance": tolerance,
        "files": _digest(package),
        "environment": _environment(device),
    }
    RELOAD_RECORD.write(tracking, str(version.run_id), record)


def differences(tracking: Tracking, version: ModelVersion, package: Path, device: str) -> list[str]:
    """What is different here from the record of a version; one phrase each.

    Args:
        package: the folder of the model.
        device: that this machine computes on: ``auto``, ``cpu`` or ``cuda[:i]``.

    Raises:
        ArtefactError: a file of the model was changed, added or removed, or the record is damaged.
        SettingsError: the device is a GPU that this machine does not have.
    """
    record = RELOAD_RECORD.read(tracking, str(version.run_id)) or {}
    if record.get("version") != int(version.version):
        return ["its registration recorded no environment"]
    if record["files"] != _digest(package):
        raise ArtefactError("a file of its model was changed, added or removed.")
    recorded, here = record["environment"], _environment(device)
    return [
        f"{name} was {recorded.get(name, 'none')} and is {here.get(name, 'none')}"
        for name in sorted(recorded.keys() | here.keys())
        if recorded.get(name) != here.get(name)
    ]


def _environment(device: str) -> dict[str, str]:
    """Package versions with their build labels, architecture and device of this machine."""
    return {
        "architecture": platform.machine(),
        "device": _device_name(device),
        "python": platform.python_version(),
        # Two checkouts may have one version number.
        "the code of stillwatch": _digest(Path(stillwatch.__file__).parent, ("flows", "tasks")),
        **{name: package_version(name) for name in NEEDED},
    }


def _device_name(device: str) -> str:
    if device == "cpu":
        return device
    if device == "auto" and not has_gpu_driver():
        return "cpu"
    # Torch takes seconds to import.
    import torch

    from stillwatch.machine.devices import choose_device

    chosen = choose_device(device)
    return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type


def _digest(folder: Path, left_out: tuple[str, ...] = ()) -> str:
    """sha256 over the names and contents of all files of a folder, shortened to 16 digits."""
    digest = hashlib.sha256()
    for path in sorted(_files(folder, {*_MADE_LATER, *left_out})):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def _files(folder: Path, left_out: set[str]) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in left_out]
        yield from (Path(parent, name) for name in files if name not in left_out)
