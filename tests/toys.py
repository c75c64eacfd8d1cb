"""Small images and a small teacher, from which a method learns in seconds."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillwatch.teachers.architectures import Architecture
from stillwatch.teachers.networks import STRIDES, Teacher
from stillwatch.teachers.transformers import TransformerLevels

SIDE = 64
"""Side of the toy images, in pixels."""
DEFECT = slice(24, 40)
"""Rows and columns of the planted defects."""


def toy_normals(count: int, first: int = 0) -> NDArray[np.uint8]:
    """Soft stripes of random phase, numbers ``first`` and up: uint8 (count, SIDE, SIDE, 3)."""
    return np.stack([_stripes(number) for number in range(first, first + count)])


def planted_defects(count: int) -> NDArray[np.uint8]:
    """Other normals with a square of noise in the middle."""
    images = toy_normals(count, first=1000)
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    images[:, DEFECT, DEFECT] = noise[:, DEFECT, DEFECT]
    return images


def toy_teacher(strides: tuple[int, ...] = STRIDES) -> Teacher:
    """A small network with fixed random weights, at strides 4, 8 and 16.

    For a method that asks for one stride twice, a vision transformer, twice at stride 8.
    """
    made = Architecture(_ToyNetwork, (12, 20, 28), (0.5,) * 3, (0.25,) * 3)
    if len(set(strides)) < len(strides):
        made = Architecture(_toy_transformer, (24, 24), (0.5,) * 3, (0.25,) * 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123_456)  # a seed that no student has
        return Teacher("toy", "0" * 64, made)


class _ToyNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 2 * stride - 1, stride, stride - 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1),
            )
            for inputs, outputs, stride in ((3, 12, 4), (12, 20, 2), (20, 28, 2))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


def _toy_transformer() -> TransformerLevels:
    from timm.models import VisionTransformer  # seconds, for one method of many

    network = VisionTransformer(
        img_size=56,
        patch_size=14,
        embed_dim=24,
        depth=3,
        num_heads=2,
        reg_tokens=1,
        no_embed_class=True,
        dynamic_img_size=True,
    )
    return TransformerLevels(network, groups=2, stride=8)


def _stripes(number: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    phase = random.uniform(0, 2 * np.pi)
    waves = 128 + 50 * np.sin((rows + 0.3 * columns) / 3 + phase)
    colours = waves[..., None] + np.array([0, 10, -15]) + random.normal(0, 2, (SIDE, SIDE, 3))
    return np.asarray(colours.clip(0, 255), dtype=np.uint8)
