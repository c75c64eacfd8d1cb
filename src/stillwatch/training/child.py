"""The child process of a training: trains, calibrates, writes the bundle, reports.

    python -m stillwatch.training.child

reads a ``TrainingJob`` as one line of JSON from stdin and prints events as lines of JSON. It exits
when stdin closes.
"""

import json
import os
import resource
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stillwatch.bundle import (
    BundleInfo,
    DetectorInfo,
    EpochLosses,
    TeacherInfo,
    TrainingInfo,
    write_bundle,
)
from stillwatch.detectors import build_detector, detector_class
from stillwatch.detectors.base import Detector
from stillwatch.errors import DeviceMemoryError, StillwatchError
from stillwatch.geometry import Geometry
from stillwatch.images.photographs import read_photographs
from stillwatch.images.region import Region
from stillwatch.images.store import ImageStore
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.machine.devices import choose_device
from stillwatch.teachers.networks import load_teacher
from stillwatch.training.data import PHOTOGRAPH_ENLARGEMENT
from stillwatch.training.job import TrainingJob
from stillwatch.training.loop import TrainingSummary, train
from stillwatch.training.rescoring import scored

Emit = Callable[[str, dict[str, Any]], None]


def main() -> int:
    """Read the job from stdin and run it; 0 when the bundle is written."""
    emit = _event_writer()
    job = TrainingJob.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, name="parent-watch", daemon=True).start()
    try:
        peak_memory_bytes = run(job, emit)
    except StillwatchError as error:
        failed: dict[str, Any] = {"message": f"{job.category}: {error}", "memory": False}
        if isinstance(error, DeviceMemoryError):
            failed |= {"memory": True, "batch_setting": error.batch_setting}
        emit("failed", failed)
        return 1
    emit("finished", {"peak_memory_bytes": peak_memory_bytes})
    return 0


def run(job: TrainingJob, emit: Emit) -> int:
    """Run the whole job; afterwards the bundle is complete and the checkpoint is removed.

    Returns:
        Peak memory in bytes, of the GPU if there is one, else of the process.
    """
    device = choose_device(job.training.device)
    store = ImageStore.open(job.store)
    strides = detector_class(job.detector).teacher_strides(job.teacher.name, job.detector_settings)
    teacher = load_teacher(job.teacher, strides)
    detector = build_detector(job.detector, teacher, job.detector_settings, seed=job.training.seed)
    summary = train(
        detector,
        train_images=store.part(job.parts["train"]),
        validation_images=store.part(job.parts["validation"]),
        geometry=store.geometry,
        settings=job.training,
        device=device,
        checkpoint=job.checkpoint,
        on_epoch=lambda report: emit("epoch", asdict(report)),
        photographs=_photographs(job, detector, store.geometry),
        shared=job.shared,
    )
    try:
        info = _describe(job, detector, device, summary, store)
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{device} has not enough memory to score images with detector '{detector.name}'. "
            "Lower images.size, or set training.device to cpu."
        ) from error
    tensors = {name: value.cpu().numpy() for name, value in detector.state_dict().items()}
    write_bundle(job.bundle, info, tensors, job.region)
    shutil.rmtree(job.checkpoint, ignore_errors=True)
    return _peak_memory(device)


def _describe(
    job: TrainingJob,
    detector: Detector,
    device: torch.device,
    summary: TrainingSummary,
    store: ImageStore,
) -> BundleInfo:
    mapper = ImageMapper(
        TorchScorer(detector, device),
        store.geometry,
        summary.combination,
        region=None if job.region is None else Region.load(job.region),
    )

    calibration, normal_scores = scored(
        mapper,
        store,
        job.parts,
        alpha_reject=job.calibration.alpha_reject,
        alpha_review=job.calibration.alpha_review,
    )
    return BundleInfo(
        category=job.category,
        detector=DetectorInfo(
            name=detector.name,
            version=detector.version,
            settings=detector.settings.model_dump(mode="json"),
        ),
        teacher=TeacherInfo(name=detector.teacher.name, digest=detector.teacher.digest),
        geometry=store.geometry,
        combination=summary.combination,
        white_level=job.white_level,
        calibration=calibration,
        largest_image=max(
            image.shape[0] * image.shape[1] for image in store.part(job.parts["calibration"])
        ),
        normal_scores=normal_scores,
        fingerprint=job.fingerprint,
        provenance=job.provenance,
        training=_training_info(job.training.seed, device, summary),
        groups=job.calibration_groups,
    )


def _training_info(seed: int, device: torch.device, summary: TrainingSummary) -> TrainingInfo:
    return TrainingInfo(
        seed=seed,
        seconds=summary.seconds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        resumed=summary.resumed,
        kept_epochs=summary.kept_epochs,
        taken_over=summary.taken_over,
        figures=summary.figures,
        losses=tuple(
            EpochLosses(
                phase=report.phase,
                epoch=report.epoch,
                train_loss=report.train_loss,
                validation_loss=report.validation_loss,
            )
            for report in summary.epochs
        ),
    )


def _photographs(
    job: TrainingJob, detector: Detector, geometry: Geometry
) -> NDArray[np.uint8] | None:
    folder = job.training.photographs
    if folder is None or not detector.uses_photographs(job.detector_settings):
        return None
    return read_photographs(folder, PHOTOGRAPH_ENLARGEMENT * max(geometry.tile))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux


def _event_writer() -> Emit:
    """Write events to the present stdout; all other output goes to stderr from here on."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(event: str, fields: dict[str, Any]) -> None:
        stream.write(json.dumps({"event": event, **fields}) + "\n")
        stream.flush()

    return emit


def _exit_with_parent() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
