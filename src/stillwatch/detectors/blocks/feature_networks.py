"""A student that predicts a teacher's deep features from the teacher's own shallow features.

Our own, for two CPU cores: a student that sees pixels must first learn edges and textures, which
takes far more steps than a CPU has time for. From the frozen features at stride 4 it learns in
minutes what normal features at strides 8 and 16 follow from them. Nothing that is trained sees a
pixel, so the features of a category are computed once.
"""

from torch import Tensor, nn

from stillwatch.detectors.blocks.maps import joined_neighbourhoods

_WIDTH = 96
_INNER = 3


def deep_features(features: list[Tensor]) -> Tensor:
    """The levels at strides 8 and 16 as PatchCore joins them.

    Args:
        features: (B, C_l, H/s_l, W/s_l) at strides 4, 8 and 16.

    Returns:
        (B, C_8 + C_16, H/8, W/8).
    """
    return joined_neighbourhoods(*features[1:])


def feature_student(inputs: int, outputs: int) -> nn.Sequential:
    """A student from stride 4 to stride 8: (B, inputs, h, w) -> (B, outputs, h/2, w/2)."""
    return nn.Sequential(
        *_convolution(inputs, stride=2),
        *(layer for _ in range(_INNER) for layer in _convolution(_WIDTH, stride=1)),
        nn.Conv2d(_WIDTH, outputs, 3, padding=1),
    )


def _convolution(inputs: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, _WIDTH, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(_WIDTH),
        nn.ReLU(inplace=True),
    )
