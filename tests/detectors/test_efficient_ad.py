"""EfficientAD against the paper's tables and formulas, worked out by hand."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import MadeNormals, combined, known_levels, one_batch
from torch import nn
from toys import toy_normals, toy_teacher

from stillwatch.detectors.blocks.description_networks import (
    DescriptionNetwork,
    GlobalAutoencoder,
    Size,
)
from stillwatch.detectors.blocks.maps import joined_neighbourhoods
from stillwatch.detectors.blocks.standardisation import Standardisation
from stillwatch.detectors.efficient_ad import (
    EfficientAD,
    fewer_channels,
    hard_feature_loss,
)
from stillwatch.errors import DetectorError, SettingsError, TeacherError

PIXELS = {"student_input": "pixels"}


def on_pixels(**values: Any) -> EfficientAD:
    return EfficientAD.build(toy_teacher(), PIXELS | values)


@pytest.mark.parametrize(
    ("size", "outputs", "millions"),
    [("small", 384, 2.69), ("small", 768, 4.27), ("medium", 384, 8.03), ("medium", 768, 11.6)],
)
def test_description_networks_are_the_papers(size: Size, outputs: int, millions: float) -> None:
    made = DescriptionNetwork(size, outputs)
    count = sum(p.numel() for p in made.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)
    with torch.device("meta"):
        on_meta = DescriptionNetwork(size, outputs)
        assert on_meta(torch.rand(1, 3, 256, 256)).shape == (1, outputs, 56, 56)
        assert on_meta(torch.rand(1, 3, 64, 96)).shape == (1, outputs, 8, 16)


@pytest.mark.parametrize(("size", "millions"), [("small", 8.06), ("medium", 20.7)])
def test_teacher_student_and_autoencoder_have_the_papers_size(size: Size, millions: float) -> None:
    networks = (
        DescriptionNetwork(size, 384),
        DescriptionNetwork(size, 2 * 384),
        GlobalAutoencoder(384),
    )
    count = sum(p.numel() for network in networks for p in network.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_receptive_field_is_33_by_its_gradient(size: Size) -> None:
    torch.manual_seed(0)
    made = DescriptionNetwork(size, 8)
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    (gradient,) = torch.autograd.grad(made(image)[0, :, 16, 16].square().sum(), image)
    rows = torch.nonzero(gradient.abs().sum(dim=(0, 1, 3)))
    assert int(rows.max() - rows.min()) + 1 == 33


def test_autoencoder_is_the_papers() -> None:
    made = GlobalAutoencoder(384).eval()
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(1.1, rel=0.02)
    with torch.no_grad():
        assert made.encoder(torch.rand(1, 3, 256, 256)).shape == (1, 64, 1, 1)
        assert made(torch.rand(1, 3, 64, 96), (16, 24)).shape == (1, 384, 16, 24)
        assert decoded_sides(made, torch.rand(1, 3, 256, 256)) == [3, 8, 15, 32, 63, 127]


def test_autoencoder_of_features_has_the_layers_from_their_stride_on() -> None:
    made = GlobalAutoencoder(20, inputs=12, stride=4).eval()
    halvings = [layer for layer in made.encoder if isinstance(layer, nn.Conv2d)][:-1]
    assert [layer.out_channels for layer in halvings] == [64, 64, 64]
    assert decoded_sides(made, torch.rand(1, 12, 64, 64)) == [3, 8, 15, 32]


@torch.no_grad()
def decoded_sides(made: GlobalAutoencoder, maps: torch.Tensor) -> list[int]:
    """Sides of what each stage of the decoder gets."""
    sides: list[int] = []
    for stage in made.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[2]))
    made(maps, (32, 32))
    return sides


def test_hard_feature_loss_takes_the_largest_share_of_each_image() -> None:
    wanted, given = torch.zeros(2, 5, 20, 20), torch.zeros(2, 5, 20, 20)  # 2000 values: 2 each
    given[0, 0, 0, :3] = torch.tensor([3.0, 2.0, 1.0])  # 9 and 4
    given[1, 4, 7, 7] = 10.0  # 100 and 0
    assert hard_feature_loss(wanted, given, share=0.001) == pytest.approx((9 + 4 + 100 + 0) / 4)
    assert hard_feature_loss(wanted, given, share=0.0015) == pytest.approx((14 + 100) / 6)
    assert hard_feature_loss(wanted, given, share=1.0) == pytest.approx((14 + 100) / 4000)


def test_level_maps_of_pixels_by_hand() -> None:
    """(1 - 0.5)^2 = 0.25 and (0 - 0.2)^2 = 0.04, but (4 - 0.5)^2 in the top left corner."""
    detector = on_pixels()
    taught = torch.ones(1, detector.target.mean.numel(), 8, 8)
    halves = torch.cat([0.5 * taught, 0.2 * taught], dim=1)
    corner = taught.clone()
    corner[..., 0, 0] = 4
    detector.patch_teacher.network = FixedNetwork(corner)
    detector.trained["student"] = FixedNetwork(halves)
    detector.trained["autoencoder"] = FixedNetwork(0 * taught)
    first, second = detector.level_maps(torch.zeros(1, 3, 64, 64))
    expected = torch.full((1, 16, 16), 0.25)
    expected[:, :5, :5] = 3.5**2
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, torch.full((1, 16, 16), 0.04))


def test_level_maps_of_features_by_hand() -> None:
    """Away from the border the joined levels are 3 and 5; less the means 1 and 2: 2 and 3.

    (2 - 1)^2 and (3 - 1)^2 are 2.5 on average, (0 - 4)^2 is 16.
    """
    detector = EfficientAD.build(toy_teacher(), {})
    detector.teacher = FixedNetwork(levels_of_ones(1, 3.0, 5.0))
    detector.target = Standardisation(2)
    detector.target.mean[:, 0, 0] = torch.tensor([1.0, 2.0])
    halves = torch.tensor([1.0, 1.0, 4.0, 4.0]).view(1, 4, 1, 1).expand(1, 4, 8, 8)
    detector.trained["student"] = FixedNetwork(halves)
    detector.trained["autoencoder"] = FixedNetwork(torch.zeros(1, 2, 8, 8))
    first, second = detector.level_maps(torch.zeros(1, 3, 64, 64))
    assert first.shape == second.shape == (1, 8, 8)
    assert first[0, 4, 4].item() == pytest.approx(2.5)
    assert second[0, 4, 4].item() == pytest.approx(16)


def levels_of_ones(count: int, middle: float, deep: float) -> list[torch.Tensor]:
    """Features of images of 64 pixels at strides 4, 8 and 16, one channel each."""
    return [
        torch.full((count, 1, side, side), value)
        for side, value in ((16, 1.0), (8, middle), (4, deep))
    ]


def test_both_maps_are_normalised_by_quantiles_of_the_normals_and_averaged() -> None:
    """Values 0 to 1000 of the student, four times as much of the autoencoder.

    The quantiles are 900 and 995, and 3600 and 3980, where the normalised maps are 0 and 0.1.
    """
    values = torch.arange(1001.0)
    halves = values[:500], values[500:]
    normals = [
        known_levels([half.reshape(-1, 1).expand(-1, len(half)), 4 * half[:, None]], (4, 4))
        for half in halves
    ]
    combination = on_pixels().combination(normals, 4.0)
    assert combination.sigma is None
    images = [
        known_levels([torch.full((8, 8), one), torch.full((8, 8), other)], (4, 4))
        for one, other in ((900.0, 3600.0), (995.0, 3600.0), (995.0, 3980.0), (1090.0, 3980.0))
    ]
    scores = combined(images, combination).max(axis=(1, 2))
    np.testing.assert_allclose(scores, [0, 0.05, 0.1, 0.15], atol=2e-3)


def test_both_maps_of_features_are_added_and_smoothed() -> None:
    """3 + 4 everywhere; at one position of 64 it is 64 more, which the Gaussian spreads."""
    maps = torch.full((8, 8), 3.0), torch.full((8, 8), 4.0)
    normals = [known_levels(maps, (8, 8))]
    combination = EfficientAD.build(toy_teacher(), {}).combination(normals, 4.0)
    np.testing.assert_allclose(combined(normals, combination), 7, rtol=1e-6)
    maps[0][4, 4] += 64
    (spread,) = combined([known_levels(maps, (8, 8))], combination)
    assert spread.shape == (16, 16)
    assert 7 < spread.max() < 30


def test_channels_are_averaged_when_there_are_too_many() -> None:
    maps = torch.tensor([1.0, 3.0, 5.0, 9.0]).view(1, 4, 1, 1).expand(1, 4, 2, 3)
    assert fewer_channels(maps, 2)[0, :, 1, 2].tolist() == [2, 7]
    assert fewer_channels(maps, 4) is maps


def test_neighbourhoods_of_two_levels_are_joined() -> None:
    fine, coarse = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 2, 2), 9.0)
    fine[0, 0, 1, 1] = 9
    joined = joined_neighbourhoods(fine, coarse)
    assert joined[0, 0, :3, :3].tolist() == [[1] * 3] * 3
    assert joined[0, 0, 3].tolist() == [0] * 4
    assert joined[0, 1].unique().tolist() == [4]  # four of nine values, the rest is padding


def test_loss_has_the_penalty_only_where_there_are_photographs() -> None:
    detector = on_pixels().eval()
    photographs = torch.rand(4, 3, 128, 128)
    losses = {}
    for name, given in (("with", photographs), ("without", None)):
        batch = replace(one_batch(toy_normals(4), detector.teacher), photographs=given)
        torch.manual_seed(0)
        with torch.no_grad():
            if given is not None:
                penalty = detector._penalty(given)
                torch.manual_seed(0)
            losses[name] = detector._loss_on_pixels(batch)
    assert penalty > 0
    assert losses["with"] > losses["without"]


def test_all_terms_of_the_loss_by_hand() -> None:
    """T = 5, S = 3, A = 1 and S' = 2 everywhere: 4, for photographs 9, 16 and 1."""
    detector = on_pixels(hard_share=0.001).eval()
    described = torch.tensor([3.0, 2.0]).view(1, 2, 1, 1).expand(4, 2, 16, 16)
    detector.patch_teacher.network = FixedNetwork(torch.full((4, 1, 16, 16), 5.0))
    detector.target = nn.Identity()
    detector.trained = nn.ModuleDict(
        {
            "student": FixedNetwork(described),
            "autoencoder": FixedNetwork(torch.ones(4, 1, 16, 16)),
        }
    )
    photographs = torch.zeros(4, 3, 128, 128)
    for given, expected in ((None, 4 + 16 + 1), (photographs, 4 + 9 + 16 + 1)):
        batch = replace(one_batch(toy_normals(4), toy_teacher()), photographs=given)
        assert detector._loss_on_pixels(batch).item() == pytest.approx(expected)


def test_the_loss_on_features_by_hand() -> None:
    """T is 2 inside, less at the border; S = T, A = 1 + T and S' = 3 + T: 0, 1 and 4.

    With S 1 apart at one of 64 positions, a 64th of the differences is that one, so the first term
    is 1.
    """
    detector = EfficientAD.build(toy_teacher(), {"hard_share": 1 / 64})
    features = levels_of_ones(1, 2.0, 2.0)
    detector.target = nn.Identity()
    taught = joined_neighbourhoods(*features[1:])
    first = taught.clone()
    detector.trained = nn.ModuleDict(
        {
            "student": FixedNetwork(torch.cat([first, 3 + taught], dim=1)),
            "autoencoder": FixedNetwork(1 + taught),
        }
    )
    batch = SimpleNamespace(features=features)
    assert detector._loss_on_features(batch).item() == pytest.approx(0 + 1 + 4)
    first[:, :, 4, 4] += 1
    detector.trained["student"] = FixedNetwork(torch.cat([first, 3 + taught], dim=1))
    assert detector._loss_on_features(batch).item() == pytest.approx(1 + 1 + 4)


def test_the_teachers_loss_by_hand() -> None:
    """Levels 9 and 18, whose border of 4 positions is left out.

    Less the means 1 and 0, over the deviations 1 and 2: 8 and 9, where the network says 10 and 9.
    """
    detector = on_pixels().eval()
    detector.teacher = FixedNetwork([torch.full((2, 1, 9, 9), value) for value in (9.0, 18.0)])
    detector.patch_teacher.network = FixedNetwork(torch.tensor([10.0, 9.0]).view(1, 2, 1, 1))
    detector.patch_teacher.features = Standardisation(2)
    detector.patch_teacher.features.mean[0] = 1
    detector.patch_teacher.features.std[1] = 2
    batch = one_batch(toy_normals(2), toy_teacher())
    assert detector._teacher_loss(batch).item() == pytest.approx((4 + 0) / 2)


class Recorder(nn.Module):
    """Answers 0, and keeps what it was given."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.given = images
        return torch.zeros(1, 2, 1, 1)


@pytest.mark.parametrize(("loss", "share"), [("_teacher_loss", 0.1), ("_penalty", 0.3)])
def test_photographs_lose_their_colours_in_the_papers_shares(loss: str, share: float) -> None:
    torch.manual_seed(0)
    detector = on_pixels().eval()
    recorder = Recorder()
    detector.teacher = FixedNetwork([torch.zeros(1, 1, 9, 9)] * 2)
    detector.patch_teacher.network = recorder
    detector.patch_teacher.features = nn.Identity()
    detector.trained["student"] = recorder
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(4000, 3, 16, 16)
    getattr(detector, loss)(SimpleNamespace(images=red) if loss == "_teacher_loss" else red)
    grey = (recorder.given[:, 0] == recorder.given[:, 2]).flatten(1).all(dim=1)
    assert grey.double().mean().item() == pytest.approx(share, abs=0.03)
    assert recorder.given[grey].unique().tolist() == pytest.approx([0.2989])


def test_the_penalty_sees_the_middle_of_a_photograph() -> None:
    """512 pixels of which it is the middle 256: those are black here, and nothing else is."""
    detector = on_pixels().eval()
    recorder = Recorder()
    detector.trained["student"] = recorder
    photographs = torch.ones(1, 3, 512, 512)
    photographs[..., 128:384, 128:384] = 0
    detector._penalty(photographs)
    assert recorder.given.shape == (1, 3, 256, 256)
    assert recorder.given.count_nonzero() == 0


def public_file(path: Path, *, anomalib: bool, size: Size = "small") -> dict[str, torch.Tensor]:
    """Write random weights with 384 channels under public names; return them under ours."""
    torch.manual_seed(5)
    weights = DescriptionNetwork(size, 384).state_dict()
    layers = sorted({int(name.split(".")[0]) for name in weights})
    names = {f"{layer}": f"conv{number}" for number, layer in enumerate(layers, start=1)}
    named = {
        f"{names[layer]}.{kind}" if anomalib else name: value
        for name, value in weights.items()
        for layer, kind in [name.split(".")]
    }
    torch.save(named, path)
    return weights


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize("anomalib", [True, False], ids=["anomalib", "nelson1425"])
def test_public_weights_are_the_patch_teachers(tmp_path: Path, anomalib: bool, size: Size) -> None:
    path = tmp_path / "teacher.pth"
    weights = public_file(path, anomalib=anomalib, size=size)
    own = {**PIXELS, "network": size, "teacher_weights": str(path)}
    assert EfficientAD.teacher_strides("none", own) == ()
    detector = EfficientAD.build(toy_teacher(), own)
    assert [phase.name for phase in detector.phases()] == ["student and autoencoder"]
    detector.prepare(MadeNormals(toy_normals(1), detector.teacher))
    loaded = detector.patch_teacher.network.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_weights_that_are_not_the_networks_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "teacher.pth"
    detector = on_pixels(teacher_weights=str(path))

    def prepare() -> None:
        detector.prepare(MadeNormals(toy_normals(1), detector.teacher))

    with pytest.raises(TeacherError, match=r"teacher\.pth: no such file.*teacher_weights"):
        prepare()
    path.write_bytes(b"damaged")
    with pytest.raises(TeacherError, match=r"teacher\.pth: cannot be read as a weights file"):
        prepare()
    torch.save(DescriptionNetwork("small", 384), path)  # a whole module would run code
    with pytest.raises(TeacherError, match=r"teacher\.pth: cannot be read as a weights file"):
        prepare()
    public_file(path, anomalib=True, size="medium")
    with pytest.raises(
        TeacherError,
        match=r"teacher\.pth: .* 'small' .* '0.bias' .*\(256,\).*efficient_ad\.network",
    ):
        prepare()


def test_weights_without_a_patch_teacher_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"Set student_input to pixels"):
        EfficientAD.build(toy_teacher(), {"teacher_weights": "teacher.pth"})


def test_images_smaller_than_a_patch_are_refused() -> None:
    detector = on_pixels()
    small = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(DetectorError, match=r"32×32 pixels are smaller than the 33"):
        detector.prepare(MadeNormals(small, detector.teacher))
    with pytest.raises(DetectorError, match=r"Raise images\.size or .* side is 33 pixels or more"):
        detector.prepare(MadeNormals(small, detector.teacher))
