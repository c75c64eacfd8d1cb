"""Frozen pretrained feature extractors: levels of one network at given strides."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from stillwatch.errors import TeacherError
from stillwatch.settings import TeacherSettings
from stillwatch.teachers.weights import WEIGHT_PACKAGES, find_weights

STRIDES = (4, 8, 16)
"""Of the levels that most methods compare."""
NO_TEACHER = "none"
"""Name of what a method is given that needs no teacher; its digest is empty."""


class Teacher(nn.Module):
    """A network that turns images into one feature map per level and is never trained.

    Its state holds the network and the normalisation, so that a bundle needs no other source.

    Args:
        name: the name in ``teacher.name``.
        digest: sha256 of the weights file.
        build: makes the network without pretrained weights; its forward pass takes normalised
            images and returns one feature map per stride.
        channels: of the levels, from shallow to deep.
        mean: of the three colour channels, subtracted from images in [0, 1].
        std: of the three colour channels, divided by.
        network: ``build()`` with its pretrained weights.
        strides: of the levels, from shallow to deep.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        digest: str,
        build: Callable[[], nn.Module],
        channels: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        network: nn.Module | None = None,
        strides: tuple[int, ...] = STRIDES,
    ) -> None:
        super().__init__()
        self.name = name
        self.digest = digest
        self.channels = channels
        self.strides = strides
        self.untrained_network = build
        """Makes the same architecture with random weights."""
        self.network = build() if network is None else network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def normalise(self, images: Tensor) -> Tensor:
        """What the network expects, from float images (B, 3, H, W) in [0, 1]."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C_l, H/s_l, W/s_l) of float images (B, 3, H, W) in [0, 1]."""
        return list(self.network(self.normalise(images)))


def images_to_input(pixels: Tensor) -> Tensor:
    """Float images (B, 3, H, W) in [0, 1], channels last in memory, from uint8 (B, H, W, 3)."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def load_teacher(settings: TeacherSettings, strides: tuple[int, ...] = STRIDES) -> Teacher:
    """The teacher with its pretrained weights, frozen, on the CPU; no network without strides.

    Raises:
        TeacherError: unknown name, no levels at these strides, or weights that are missing, not
            the expected ones, or of another architecture.
    """
    if not strides:
        return _no_teacher()
    weights = find_weights(settings)
    state = _read_state(weights.path)
    if settings.name in WEIGHT_PACKAGES:
        state = _renamed(state, settings.name, weights.path)
    try:
        network = _filled_network(settings.name, strides, state)
    except RuntimeError as error:
        raise TeacherError(
            f"{weights.path}: does not hold the weights of '{settings.name}' ({error}). "
            "Replace the file."
        ) from error
    return _teacher(settings.name, weights.sha256, strides, network)


def empty_teacher(name: str, digest: str, strides: tuple[int, ...] = STRIDES) -> Teacher:
    """The same architecture with random weights, to be filled from a bundle.

    Raises:
        TeacherError: timm does not know ``name``, or it has no levels at these strides.
    """
    if not strides:
        return _no_teacher()
    return _teacher(name, digest, strides, _build_network(name, strides))


def _no_teacher() -> Teacher:
    """In the place of one, for methods that need none."""
    return Teacher(NO_TEACHER, "", nn.Identity, (), (0.0,) * 3, (1.0,) * 3, strides=())


def _teacher(name: str, digest: str, strides: tuple[int, ...], network: nn.Module) -> Teacher:
    cfg = network.pretrained_cfg
    return Teacher(
        name,
        digest,
        partial(_build_network, name, strides),
        tuple(network.feature_info.channels()),  # type: ignore[operator, union-attr]
        tuple(cfg["mean"]),  # type: ignore[index]
        tuple(cfg["std"]),  # type: ignore[index]
        network,
        strides,
    )


def _filled_network(name: str, strides: tuple[int, ...], state: Mapping[str, Tensor]) -> nn.Module:
    network = _build_network(name, strides)
    given = {_plain(key): value for key, value in state.items()}
    own = network.state_dict()
    # Older files do not count batches, and a frozen network does not ask.
    wanted = [key for key in own if not key.endswith("num_batches_tracked")]
    if lacking := [key for key in wanted if _plain(key) not in given]:
        raise RuntimeError(f"{len(lacking)} tensors are missing, {lacking[0]} for one")
    network.load_state_dict({**own, **{key: given[_plain(key)] for key in wanted}})
    return network


def _plain(key: str) -> str:
    """A tensor's name before timm, cutting a sequence, made features_0 of features.0."""
    return key.replace("_", ".")


def _build_network(name: str, strides: tuple[int, ...]) -> nn.Module:
    """The layers of a timm model up to its deepest level, with random weights."""
    import timm  # takes seconds, and a teacher made elsewhere does not need it

    levels = _levels(name, strides)
    network: nn.Module = timm.create_model(_timm_name(name), features_only=True, out_indices=levels)
    if hasattr(network, "_stage_out_idx"):  # timm keeps the deeper stages of these, and runs them
        deepest = max(network._stage_out_idx)  # type: ignore[arg-type]
        network.blocks = network.blocks[:deepest]  # type: ignore[index]
    return network


def _levels(name: str, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Indices of timm's feature levels that have these strides."""
    import timm

    try:
        with torch.device("meta"):
            network = timm.create_model(_timm_name(name), features_only=True)
        available = network.feature_info.reduction()
    except (RuntimeError, ValueError, AttributeError) as error:
        raise TeacherError(_unknown_teacher(name)) from error
    if not set(strides) <= set(available):
        raise TeacherError(
            f"teacher '{name}' has feature maps at strides {available}; the detector needs "
            f"{list(strides)}. Use a convolutional network such as resnet18.tv_in1k."
        )
    return tuple(available.index(stride) for stride in strides)


def _whole_state(name: str) -> dict[str, Tensor]:
    """Names and shapes of the whole network's tensors, classifier included, without data."""
    import timm

    with torch.device("meta"):
        return dict(timm.create_model(_timm_name(name)).state_dict())


def _timm_name(name: str) -> str:
    return f"tf_{name}" if name in WEIGHT_PACKAGES else name


def _unknown_teacher(name: str) -> str:
    import timm

    known = [*WEIGHT_PACKAGES, *timm.list_models(), *timm.list_pretrained()]
    near = difflib.get_close_matches(name, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "such as resnet18.tv_in1k."
    return f"teacher '{name}' is neither {', '.join(WEIGHT_PACKAGES)} nor a timm model: {hint}"


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling damaged bytes raises nearly anything
        raise TeacherError(
            f"{path}: cannot be read as a weights file ({error}). Replace the file."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise TeacherError(f"{path}: is not a table of tensors by name. Replace the file.")
    return state


def _renamed(state: Mapping[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """The packages' tensors under timm's names: same order, same shapes, other names."""
    whole = _whole_state(name)
    if state.keys() == whole.keys():
        return dict(state)
    shapes = [tuple(value.shape) for value in state.values()]
    if shapes != [tuple(value.shape) for value in whole.values()]:
        raise TeacherError(
            f"{path}: its {len(state)} tensors are not those of {name}. Replace the file."
        )
    return dict(zip(whole, state.values(), strict=True))
