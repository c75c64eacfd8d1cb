"""Which code a benchmark ran, and on what."""

import platform
import subprocess

import torch


def commit() -> str:
    """The checked-out commit's full hash."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine(device: torch.device) -> str:
    """The processor that ``device`` is, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, no GPU"
