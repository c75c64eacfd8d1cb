"""Levels of vision transformers: what timm computes, at any shape, and what is refused."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch.nn import functional as F  # noqa: N812

from stillwatch.errors import TeacherError
from stillwatch.settings import TeacherSettings
from stillwatch.teachers.architectures import architecture
from stillwatch.teachers.networks import empty_teacher, load_teacher
from stillwatch.teachers.transformers import TransformerLevels, resizing_matrix

TWICE = (16, 16)
"""Strides of two groups of blocks."""


@pytest.mark.parametrize(("old", "new"), [(37, 14), (37, 28), (5, 5), (4, 9), (16, 1)])
def test_resizing_matrix_is_torchs_bicubic_interpolation(old: int, new: int) -> None:
    values = torch.rand(old, 3, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values[None, None], (new, 3), mode="bicubic", antialias=True)[0, 0]
    torch.testing.assert_close(resizing_matrix(old, new) @ values, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 2])
def test_levels_are_means_of_the_middle_blocks_that_timm_computes(registers: int) -> None:
    """Without registers, class tokens have a position in DINOv2's networks; with them, none has."""
    network = VisionTransformer(
        img_size=70,
        patch_size=14,
        embed_dim=8,
        num_heads=2,
        reg_tokens=registers,
        no_embed_class=bool(registers),
        dynamic_img_size=True,
    ).eval()
    images = torch.rand(2, 3, 64, 96)
    levels = TransformerLevels(network, groups=2, stride=16)
    with torch.no_grad():
        torch.nn.init.normal_(network.pos_embed)
        resized = F.interpolate(images, (56, 84), mode="bilinear", align_corners=False)
        blocks = network.forward_intermediates(resized, intermediates_only=True)
        found = levels(images)
    for level, taps in zip(found, ([2, 3, 4, 5], [6, 7, 8, 9]), strict=True):
        expected = torch.stack([blocks[tap] for tap in taps]).mean(dim=0)
        assert level.shape == (2, 8, 4, 6)
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-5)


def test_of_24_blocks_every_second_is_taken() -> None:
    with torch.device("meta"):
        network = VisionTransformer(patch_size=14, embed_dim=8, depth=24, num_heads=2)
        levels = TransformerLevels(network, groups=4, stride=16)
    assert levels.groups == [[4, 6], [8, 10], [12, 14], [16, 18]]
    assert len(levels.blocks) == 19


def test_timms_file_fills_a_teacher(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    whole = timm.create_model(name, dynamic_img_size=True).eval()
    save_file(whole.state_dict(), tmp_path / f"{name}.safetensors")
    teacher = load_teacher(TeacherSettings(name=name, weights_dir=tmp_path), TWICE)
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        inside = whole.forward_intermediates(
            teacher.normalise(images), indices=[6, 7, 8, 9], intermediates_only=True
        )
        deep = teacher(images)[1]
    torch.testing.assert_close(deep, torch.stack(inside).mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "width"), [("small", 384), ("base", 768)])
def test_dinov2_is_known(size: str, width: int) -> None:
    made = architecture(f"vit_{size}_patch14_reg4_dinov2.lvd142m", TWICE)
    assert made.channels == (width, width)
    assert made.mean == pytest.approx([0.485, 0.456, 0.406])
    with torch.device("meta"):
        network = made.build()
    assert network.pos_embed.shape == (1, 37 * 37, width)
    assert len(network.blocks) == 10


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "resnet18", "deit_tiny_distilled_patch16_224"]
)
def test_another_network_than_a_plain_transformer_is_refused(name: str) -> None:
    with pytest.raises(TeacherError, match=r"Set teacher\.name to vit_small_patch14_reg4_dinov2"):
        empty_teacher(name, "", TWICE)


def test_unknown_transformer_names_the_nearest() -> None:
    with pytest.raises(TeacherError, match="did you mean vit_small_patch14_reg4_dinov2"):
        empty_teacher("vit_small_patch14_reg4_dinov3", "", TWICE)
