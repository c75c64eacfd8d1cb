"""Teachers: frozen pretrained networks that give feature maps at several strides."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from stillwatch.errors import TeacherError
from stillwatch.settings import TeacherSettings
from stillwatch.teachers.architectures import Architecture, architecture, package_state
from stillwatch.teachers.weights import TORCHVISION_NAMES, WEIGHT_PACKAGES, find_weights

STRIDES = (4, 8, 16)
"""Of the feature maps that most methods compare, in pixels."""
NO_TEACHER = "none"
"""Name of the teacher of a method that needs none; the digest is empty."""


class Teacher(nn.Module):
    """A network that turns images into one feature map per level and is never trained.

    Its state holds the network and the normalisation, so that a bundle needs no other source.

    Args:
        name: the name in ``teacher.name``.
        digest: sha256 of the weights file.
        made: its architecture.
        network: ``made.build()`` with its pretrained weights; None: with random weights.
        strides: of the levels, from shallow to deep.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        digest: str,
        made: Architecture,
        network: nn.Module | None = None,
        strides: tuple[int, ...] = STRIDES,
    ) -> None:
        super().__init__()
        self.name = name
        self.digest = digest
        self.channels = made.channels
        self.strides = strides
        self.untrained_network = made.build
        """Makes the same architecture with random weights."""
        self.network = made.build() if network is None else network
        self.register_buffer("mean", torch.tensor(made.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(made.std).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise float images (B, 3, H, W) in [0, 1] as the network expects."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C_l, H/s_l, W/s_l) of float images (B, 3, H, W) in [0, 1]."""
        return list(self.network(self.normalise(images)))


def images_to_input(pixels: Tensor) -> Tensor:
    """Convert uint8 (B, H, W, 3) to float (B, 3, H, W) in [0, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def load_teacher(settings: TeacherSettings, strides: tuple[int, ...] = STRIDES) -> Teacher:
    """Load a teacher with its pretrained weights, frozen, on the CPU.

    Args:
        settings: name and weights.
        strides: of the feature maps; without any, the teacher has no network and no weights.

    Raises:
        TeacherError: unknown name, no feature maps at these strides, or weights that are missing,
            not the expected ones, or of another architecture.
    """
    if not strides:
        return _no_teacher()
    weights = find_weights(settings)
    state = read_state(weights.path)
    if settings.name in WEIGHT_PACKAGES:
        state = _with_timm_names(state, settings.name, weights.path)
    elif settings.name in TORCHVISION_NAMES:  # a VGG's classifier has names of its own
        state = {key.removeprefix("features."): value for key, value in state.items()}
    made = architecture(settings.name, strides)
    try:
        network = _filled(made.build(), state)
    except RuntimeError as error:
        raise TeacherError(
            f"{weights.path}: does not hold the weights of '{settings.name}' ({error}). "
            "Replace the file."
        ) from error
    return Teacher(settings.name, weights.sha256, made, network, strides)


def empty_teacher(name: str, digest: str, strides: tuple[int, ...] = STRIDES) -> Teacher:
    """Build a teacher with random weights, whose state is then loaded from a bundle."""
    if not strides:
        return _no_teacher()
    return Teacher(name, digest, architecture(name, strides), strides=strides)


def _no_teacher() -> Teacher:
    made = Architecture(nn.Identity, (), (0.0,) * 3, (1.0,) * 3)
    return Teacher(NO_TEACHER, "", made, strides=())


def _filled(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    given = {_plain(key): value for key, value in state.items()}
    own = network.state_dict()
    # Older files do not count batches, and a frozen network does not need the count.
    wanted = [key for key in own if not key.endswith("num_batches_tracked")]
    if lacking := [key for key in wanted if _plain(key) not in given]:
        raise RuntimeError(f"{len(lacking)} tensors are missing, {lacking[0]} for one")
    network.load_state_dict({**own, **{key: given[_plain(key)] for key in wanted}})
    return network


def _plain(key: str) -> str:
    """A tensor's name as in the file: timm renames features.0 to features_0."""
    return key.replace("_", ".")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a file of weights; a pickled file runs no code.

    Raises:
        TeacherError: the file cannot be read, or is not a table of tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling damaged bytes may raise any exception
        raise TeacherError(
            f"{path}: cannot be read as a weights file ({error}). Replace the file."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise TeacherError(f"{path}: is not a table of tensors by name. Replace the file.")
    return state


def _with_timm_names(state: Mapping[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a PyPI package under timm's names: same order, same shapes, other names."""
    whole = package_state(name)
    if state.keys() == whole.keys():
        return dict(state)
    shapes = [tuple(value.shape) for value in state.values()]
    if shapes != [tuple(value.shape) for value in whole.values()]:
        raise TeacherError(
            f"{path}: its {len(state)} tensors are not those of {name}. Replace the file."
        )
    return dict(zip(whole, state.values(), strict=True))
