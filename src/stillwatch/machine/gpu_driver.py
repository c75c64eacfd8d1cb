"""Find out without importing torch, which takes seconds, whether this machine can have a GPU."""

from pathlib import Path

_DEVICE_FILES = ("nvidiactl", "nvidia0", "nvhost-ctrl", "nvmap", "dxg", "kfd")
"""Of NVIDIA's driver, Jetson's, WSL's and AMD's, in ``/dev``."""


def has_gpu_driver() -> bool:
    """Whether a driver of a GPU is loaded; without one, torch finds no GPU."""
    return any(Path("/dev", name).exists() for name in _DEVICE_FILES)
