"""Scorer of bundles with weights: the detector, run by PyTorch."""

import numpy as np
import torch
from numpy.typing import NDArray

from stillwatch.bundle import Bundle, read_weights
from stillwatch.detectors import build_detector, detector_class
from stillwatch.detectors.base import Detector
from stillwatch.errors import BundleError
from stillwatch.machine.devices import choose_device, full_precision
from stillwatch.teachers.networks import empty_teacher, images_to_input


class TorchScorer:
    """The level maps of a detector, in float32 on any device: neither autocast nor TF32."""

    def __init__(self, detector: Detector, device: torch.device) -> None:
        self.device = device
        self.detector = detector.to(device).to(memory_format=torch.channels_last).eval()

    def __call__(self, tiles: NDArray[np.uint8], /) -> list[NDArray[np.float32]]:
        """Map uint8 tiles (B, H, W, 3) to level maps, float32 (B, H / stride, W / stride) each."""
        pixels = torch.tensor(np.asarray(tiles)).to(self.device)
        with torch.inference_mode(), full_precision(self.device):
            levels = self.detector.level_maps(images_to_input(pixels))
        return [np.asarray(level.cpu().numpy(), dtype=np.float32) for level in levels]


def load_scorer(bundle: Bundle, device: str = "auto") -> TorchScorer:
    """Load a bundle's detector as a scorer.

    Args:
        bundle: as ``read_bundle`` gives it.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.

    Raises:
        BundleError: it was made by another version of the method, or its weights do not fit it.
        DetectorError: no such method here.
        SettingsError: no such device here, or settings that the method does not know.
        TeacherError: no such teacher here.
    """
    info = bundle.info
    method = detector_class(info.detector.name)
    if method.version != info.detector.version:
        raise BundleError(
            f"{bundle.folder}: made by version {info.detector.version} of detector "
            f"'{info.detector.name}', and this stillwatch has version {method.version}, which "
            f"scores differently. Train it again, or use stillwatch {info.stillwatch_version}."
        )
    strides = method.teacher_strides(info.teacher.name, info.detector.settings)
    teacher = empty_teacher(info.teacher.name, info.teacher.digest, strides)
    detector = build_detector(info.detector.name, teacher, info.detector.settings)
    weights = {name: torch.from_numpy(value) for name, value in read_weights(bundle).items()}
    try:
        detector.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(
            f"{bundle.folder}: its weights are not those of detector '{info.detector.name}' with "
            f"teacher '{info.teacher.name}' ({error}). Train it again."
        ) from error
    return TorchScorer(detector, choose_device(device))
