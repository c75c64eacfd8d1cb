"""Choose the device and the precision of torch, and check the device's memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stillwatch.errors import SettingsError
from stillwatch.settings import Profile, TrainingSettings

_MEMORY_SHARE = 0.5


def choose_device(setting: str) -> torch.device:
    """The device that ``training.device`` names; ``auto`` is the first GPU, else the CPU.

    Raises:
        SettingsError: a GPU is named that this machine does not have.
    """
    if setting == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if setting == "cpu":
        return torch.device("cpu")
    device = torch.device(setting if ":" in setting else "cuda:0")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.index >= count:
        raise SettingsError(
            f"training.device is {setting}, and torch finds {count} CUDA devices here. "
            "Set it to auto or cpu."
        )
    return device


def usable_devices(setting: str) -> tuple[str, ...]:
    """The devices of this machine that a training may take; ``auto`` stands for every GPU."""
    first = choose_device(setting)
    if setting == "auto" and first.type == "cuda":
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return (str(first),)


def choose_profile(settings: TrainingSettings) -> Profile:
    """The profile that ``training.profile`` names; ``auto`` is ``paper`` on a GPU, else ``laptop``.

    Raises:
        SettingsError: ``auto``, and a GPU is named that this machine does not have.
    """
    if settings.profile != "auto":
        return settings.profile
    return "paper" if choose_device(settings.device).type == "cuda" else "laptop"


def mixed_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where the hardware computes in it, without effect elsewhere.

    A CPU without bfloat16 instructions emulates them, many times slower than float32.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=_has_bfloat16(device))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 throughout: neither autocast nor TF32."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def fits(size: int, device: torch.device) -> bool:
    """Whether ``size`` bytes fit into half of the device's memory; the training needs the rest."""
    if device.type == "cuda":
        return size < _MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    return size < _MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
