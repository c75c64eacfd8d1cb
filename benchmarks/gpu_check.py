"""Check every method on a GPU: speed, precision and memory, two trainings at once, a full device.

Trains each phase of each method with its settings of the profile ``paper`` for a few seconds, in
float32 and in bfloat16; then two trainings at the same time; then a training on a device that is
too full for its batch, which the product repeats with half the batch. Takes at most 8 minutes.

    make gpu-check IMAGES=ROOT/CATEGORY

or, from the checkout, with the packages that ``stillwatch`` and its extra ``train`` name, and
without Prefect, MLflow, DVC and Great Expectations,

    PYTHONPATH=src python -m benchmarks.gpu_check ROOT/CATEGORY

writes ``gpu-check.json`` and its table ``gpu-check.md``. A teacher whose weights are not on the
machine gets random weights, and its rows say so: times and memory do not depend on the weights.
``--dry-run`` needs neither a GPU nor images: it takes two steps of each phase on the CPU, with tiny
settings and made images, and shows that the program runs.
"""

import argparse
import gc
import math
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.revision import commit, machine
from benchmarks.tables import markdown, origin
from stillwatch.detectors import (
    build_detector,
    detector_class,
    detector_classes,
    parse_detector_settings,
)
from stillwatch.detectors.base import Detector, Phase
from stillwatch.errors import DetectorError, DeviceMemoryError, StillwatchError, TeacherError
from stillwatch.files import write_json
from stillwatch.geometry import Geometry
from stillwatch.images.decode import Pixels, read_image, read_shape
from stillwatch.images.layout import scan_category
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.machine.devices import choose_device, full_precision
from stillwatch.settings import ImageSettings, TeacherSettings, TrainingSettings
from stillwatch.tasks.training.memory_retry import with_half_batch  # imports the ground floor only
from stillwatch.teachers.networks import NO_TEACHER, Teacher, empty_teacher, load_teacher
from stillwatch.teachers.weights import find_weights
from stillwatch.training.data import TilePool, TrainingImages
from stillwatch.training.job import EpochReport, TrainingJob
from stillwatch.training.loop import train
from stillwatch.training.state import PhaseState

Row = dict[str, Any]

TEACHERS = "wide_resnet50_2", "vit_base_patch14_reg4_dinov2.lvd142m"
"""Each method takes the first that it can use: the second is for methods of transformers."""
DRY_TEACHERS = "test_efficientnet", "test_vit"
"""timm's networks for tests."""
IMAGES, DRY_IMAGES = 64, 6
DRY_SIDE = 64
"""Of the made images, in pixels."""
TRAINING_METHOD = "reverse_distillation"
"""The method of the two trainings at once and of the full device."""
METHODS_SECONDS = 380.0
"""For all methods together; the rest of the 8 minutes is for the trainings after them."""
TOGETHER_SECONDS = 15.0
"""About the length of each training of two at once."""
STEPS_SHARE = 0.5
"""Share of a method's time for its steps; the rest is for setting up and inspecting."""
STEPS_BETWEEN_WAITS = 8
"""Steps after which the program waits for the device, so that it notices the end of its time."""
COMPARED_LOSSES = 10
"""Last common steps whose mean losses are compared."""
INSPECTED_TILES = 16
PRECISIONS: dict[str, Callable[[torch.device], AbstractContextManager[object]]] = {
    "float32": full_precision,
    "bfloat16": lambda device: torch.autocast(device.type, dtype=torch.bfloat16),
}


@dataclass(frozen=True)
class Bench:
    """The device, the images, and where the teachers come from."""

    device: torch.device
    images: list[Pixels]
    """Scaled, uint8 (h, w, 3) each."""
    geometry: Geometry
    teachers: tuple[str, ...]
    weights: Path
    is_dry: bool

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that the device computes in; a dry run tries both wherever it runs."""
        if self.is_dry or torch.cuda.is_bf16_supported(including_emulation=False):
            return tuple(PRECISIONS)
        return ("float32",)

    def settings_of(self, method: str) -> dict[str, Any]:
        """All settings of a method: its profile ``paper``, in a dry run those for tests."""
        if self.is_dry:
            section = parse_detector_settings(method, detector_class(method).quick)
        else:
            section = parse_detector_settings(method, {}, "paper")
        return section.model_dump(mode="json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, write the JSON and the table, print the table; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("category", type=Path, nargs="?", help="folder in MVTec layout; a dry run needs none")
    add("--teachers", nargs="+", help="each method takes the first that it can use")
    add("--weights", type=Path, default=Path("weights"), help="folder of the teachers' weights")
    add("--dry-run", action="store_true", help="tiny, on the CPU, with made images")
    add("--out", type=Path, default=Path("gpu-check.json"))
    given = parser.parse_args(arguments)
    if given.category is None and not given.dry_run:
        parser.error("name the folder of a category, or ask for a --dry-run")
    try:
        bench = _bench(given)
    except StillwatchError as error:
        parser.error(str(error))
    began = time.monotonic()
    rows = list(_method_rows(bench, began + (0.0 if bench.is_dry else METHODS_SECONDS)))
    together = _guarded(_together, bench, 0.0 if bench.is_dry else TOGETHER_SECONDS)
    halved = _guarded(_on_full_device, bench)
    found = {
        "commit": _commit(),
        "machine": machine(bench.device),
        "torch": torch.__version__,
        "is_dry_run": bench.is_dry,
        "geometry": str(bench.geometry),
        "images": len(bench.images),
        "seconds": time.monotonic() - began,
        "methods": rows,
        "together": together,
        "full_device": halved,
    }
    write_json(given.out, found)
    page = render(found)
    given.out.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)
    return int(any("error" in part for part in (*rows, together, halved)))


def _bench(given: argparse.Namespace) -> Bench:
    if given.dry_run:
        random = np.random.default_rng(0)
        shape = DRY_IMAGES, DRY_SIDE, DRY_SIDE, 3
        images = list(random.integers(0, 256, shape, dtype=np.uint8))
        geometry = ImageSettings(size=DRY_SIDE).geometry([(DRY_SIDE, DRY_SIDE)])
        device, teachers = torch.device("cpu"), DRY_TEACHERS
    else:
        category = scan_category(given.category)
        files = [given.category / file.path for file in category.train_normals[:IMAGES]]
        geometry = ImageSettings().geometry([read_shape(file) for file in files])
        images = [read_image(file, geometry, white_level=None) for file in files]
        device, teachers = choose_device("cuda"), TEACHERS
    teachers = tuple(given.teachers or teachers)
    return Bench(device, images, geometry, teachers, given.weights, given.dry_run)


def _commit() -> str:
    try:
        return commit()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # a copy of the checkout without git's folder


def _guarded(check: Callable[..., Row], *arguments: Any) -> Row:
    try:
        return check(*arguments)
    except Exception as error:  # whatever fails must not end the other checks
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _method_rows(bench: Bench, end: float) -> Iterator[Row]:
    """One row for each phase of each method; one for a method without phases."""
    methods = list(detector_classes())
    for index, method in enumerate(methods):
        seconds = max(0.0, end - time.monotonic()) / (len(methods) - index)
        rows: dict[str, Row] = {}
        failed = _guarded(_check_method, bench, method, seconds, rows)
        for name, row in rows.items():
            _compare_losses(row)
            yield {"method": method, "phase": name, **row}
        if failed:
            yield {"method": method, "phase": "–", **failed}
        _free_memory(bench.device)


def _check_method(bench: Bench, method: str, seconds: float, rows: dict[str, Row]) -> Row:
    """Fill the method's rows, by phase; those before a failure are kept."""
    for precision in bench.precisions:
        detector, teacher = _detector(bench, method)
        phases = len(detector.phases())
        if rows and not phases:
            break  # a preparation is in float32
        share = STEPS_SHARE * seconds / (len(bench.precisions) * max(1, phases))
        for name, batch, figures in _trained_phases(bench, detector, precision, share):
            row = rows.setdefault(name, {"teacher": teacher, "batch": batch})
            row[precision] = figures
    row["inspected_per_second"] = _inspected_per_second(bench, detector, seconds / 20)
    return {}


def _detector(bench: Bench, method: str) -> tuple[Detector, str]:
    """The untrained detector on the device, and its teacher in words.

    Raises:
        StillwatchError: the method can use none of the teachers.
    """
    values = bench.settings_of(method)
    refusals = []
    for name in bench.teachers:
        try:
            teacher, words = _teacher(bench, method, name, values)
            detector = build_detector(method, teacher, values, seed=0)
        except (TeacherError, DetectorError) as error:
            refusals.append(str(error))
        else:
            detector.to(bench.device).to(memory_format=torch.channels_last).eval()
            return detector, words
    raise DetectorError(" ".join(refusals))


def _teacher(bench: Bench, method: str, name: str, values: Row) -> tuple[Teacher, str]:
    strides = detector_class(method).teacher_strides(name, values)
    settings = TeacherSettings(name=name, weights_dir=bench.weights)
    if not strides:
        return load_teacher(settings, strides), NO_TEACHER
    try:
        find_weights(settings)
    except TeacherError:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return empty_teacher(name, "", strides), f"{name}, random weights"
    return load_teacher(settings, strides), name


def _trained_phases(
    bench: Bench, detector: Detector, precision: str, seconds: float
) -> Iterator[tuple[str, int, Row]]:
    """Name, batch size and figures of each phase; of the preparation where there is no phase."""
    every = TrainingImages(
        bench.images, bench.images[:1], None, bench.geometry, detector.teacher, bench.device
    )
    normals = every.normals[0]
    began = _start(bench.device)
    with torch.no_grad(), full_precision(bench.device):
        detector.prepare(_Batches(normals))
    phases = detector.phases()
    if not phases:
        yield "preparation", 1, _figures(bench.device, began, len(bench.images), [])
    for phase in phases:
        images = every.photographs[0] if phase.on_photographs else normals
        if phase.prepare is not None:
            with torch.no_grad(), full_precision(bench.device):
                phase.prepare(_Batches(images))
        figures = _steps(bench.device, phase, images, PRECISIONS[precision], seconds)
        phase.module.eval()
        yield phase.name, phase.batch_size, figures


@dataclass(frozen=True)
class _Batches:
    """All images of a pool in batches, as a training measures its statistics."""

    images: TilePool

    def __iter__(self) -> Iterator[Any]:
        return self.images.batches(INSPECTED_TILES, torch.arange(len(self.images)))

    def __len__(self) -> int:
        return len(self.images)


def _steps(
    device: torch.device,
    phase: Phase,
    images: TilePool,
    precision: Callable[[torch.device], AbstractContextManager[object]],
    seconds: float,
) -> Row:
    """Optimiser steps for about so many seconds, at least two; the first one is not timed."""
    torch.manual_seed(0)
    state = PhaseState.start(phase)
    phase.module.train()
    began = _start(device)
    losses: list[torch.Tensor] = []
    seen = 0
    for batch in _endless_batches(images, phase.batch_size):
        with precision(device):
            loss = phase.loss(replace(batch, progress=0.5))
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        losses.append(loss.detach())
        if len(losses) == 1:  # chooses kernels and fills the caches of features
            _wait(device)
            began = time.monotonic()
            continue
        seen += len(batch)
        if len(losses) % STEPS_BETWEEN_WAITS == 0:
            _wait(device)
        if time.monotonic() - began >= seconds:
            break
    figures = _figures(device, began, seen, torch.stack(losses).float().tolist())
    if not all(map(math.isfinite, figures["losses"])):
        raise StillwatchError(f"phase '{phase.name}': the loss is not finite. Check its settings.")
    return figures


def _endless_batches(images: TilePool, batch_size: int) -> Iterator[Any]:
    while True:
        yield from images.batches(batch_size, torch.randperm(len(images)))


def _start(device: torch.device) -> float:
    """The present time, from which peak memory is counted as well."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _wait(device)
    return time.monotonic()


def _figures(device: torch.device, began: float, images: int, losses: list[float]) -> Row:
    _wait(device)
    return {
        "images_per_second": images / (time.monotonic() - began),
        "peak_megabytes": _peak(device),
        "losses": losses,
    }


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _compare_losses(row: Row) -> None:
    """Replace the losses of all steps by the mean over the last steps that both precisions took."""
    parts = [row[name] for name in PRECISIONS if name in row]
    common = min(len(part["losses"]) for part in parts)
    for part in parts:
        part["steps"] = len(part["losses"])
        compared = part.pop("losses")[max(0, common - COMPARED_LOSSES) : common]
        part["loss"] = statistics.mean(compared) if compared else None


def _inspected_per_second(bench: Bench, detector: Detector, seconds: float) -> float:
    """Tiles per second in batches of 16, from pixels to level maps."""
    scorer = TorchScorer(detector, bench.device)
    tile = bench.geometry.tiles(*bench.geometry.tile)[0]
    tiles = np.stack([bench.geometry.cut(one, tile) for one in bench.images[:INSPECTED_TILES]])
    if not all(np.isfinite(level).all() for level in scorer(tiles)):
        raise DetectorError("its maps are not finite. Check the phases above.")
    began, seen = time.monotonic(), 0
    while not seen or time.monotonic() - began < seconds:
        scorer(tiles)
        seen += len(tiles)
    return seen / (time.monotonic() - began)


@dataclass(frozen=True)
class _Training:
    """A whole training, which may run in a process of its own."""

    bench: Bench
    values: Row
    most_at_once: int | None = None
    """Most images in a batch that do not run out of memory, for a CPU; None: as many as fit."""

    def run(self) -> Row:
        """Train ``TRAINING_METHOD``: images per second after the first epoch, and memory.

        Raises:
            DeviceMemoryError: a batch does not fit into the device's memory.
        """
        bench = self.bench
        _free_memory(bench.device)
        teacher, _ = _teacher(bench, TRAINING_METHOD, bench.teachers[0], self.values)
        detector = build_detector(TRAINING_METHOD, teacher, self.values, seed=0)
        for phase in detector.phases():
            phase.module.register_forward_pre_hook(self._require_memory)
        reports: list[EpochReport] = []
        _start(bench.device)
        train(
            detector,
            train_images=bench.images,
            validation_images=bench.images[:1],
            geometry=bench.geometry,
            settings=TrainingSettings(),
            device=bench.device,
            checkpoint=None,
            on_epoch=reports.append,
        )
        images = len(bench.images) * (len(reports) - 1)
        seconds = reports[-1].seconds - reports[0].seconds
        return {
            "images_per_second": images / seconds if images else None,
            "peak_megabytes": _peak(bench.device),
            "reserved_megabytes": torch.cuda.max_memory_reserved(bench.device) / 2**20
            if bench.device.type == "cuda"
            else None,
        }

    def _require_memory(self, _module: nn.Module, given: tuple[Any, ...]) -> None:
        if self.most_at_once is not None and len(given[0][0]) > self.most_at_once:
            raise torch.OutOfMemoryError("simulated")


def _together(bench: Bench, seconds: float) -> Row:
    """Images per second of a training alone, and of two at the same time."""
    values = bench.settings_of(TRAINING_METHOD)
    context = get_context("forkserver")  # torch is imported once; CUDA does not survive a fork
    context.set_forkserver_preload(["stillwatch.training.loop", "timm"])
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        short = _Training(bench, values | {"epochs": 2})
        trial = processes.submit(short.run).result()
        passes = seconds * trial["images_per_second"] / len(bench.images)
        longer = _Training(bench, values | {"epochs": max(2, round(passes))})
        alone = processes.submit(longer.run).result()
        both = [future.result() for future in [processes.submit(longer.run) for _ in range(2)]]
    return {
        "method": TRAINING_METHOD,
        "alone": alone,
        "two": both,
        "gain": sum(one["images_per_second"] for one in both) / alone["images_per_second"],
    }


def _on_full_device(bench: Bench) -> Row:
    """Train on a device with too little memory for the batch, then as the product retries."""
    values = bench.settings_of(TRAINING_METHOD) | {"epochs": 1}
    half = values | {"batch_size": values["batch_size"] // 2}
    training, allowed = _Training(bench, values), None
    if bench.device.type == "cuda":
        whole, smaller = training.run(), replace(training, values=half).run()
        if smaller["reserved_megabytes"] >= whole["peak_megabytes"]:
            raise StillwatchError("half the batch needs as much memory. Use larger images.")
        allowed = (smaller["reserved_megabytes"] + whole["peak_megabytes"]) / 2
        total = torch.cuda.get_device_properties(bench.device).total_memory / 2**20
        torch.cuda.set_per_process_memory_fraction(allowed / total, bench.device)
    else:
        training = replace(training, most_at_once=half["batch_size"])
    try:
        halved = _halved(training)
        replace(training, values=halved).run()
    finally:
        if bench.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    return {
        "method": TRAINING_METHOD,
        "batch_size": values["batch_size"],
        "retried_with": halved["batch_size"],
        "allowed_megabytes": allowed,
    }


def _halved(training: _Training) -> Row:
    """The settings with which the product repeats this training, which runs out of memory."""
    try:
        training.run()
    except DeviceMemoryError as error:
        with TemporaryDirectory() as folder:
            job = TrainingJob.model_construct(
                detector=TRAINING_METHOD,
                detector_settings=training.values,
                checkpoint=Path(folder) / "checkpoint",
            )
            return with_half_batch(job, error).detector_settings
    raise StillwatchError("the whole batch fitted into memory that is too small for it.")


def render(found: Row) -> str:
    """The page in Markdown: one table, and what came of the trainings beside each other."""
    command = f"python -m benchmarks.gpu_check {'--dry-run' if found['is_dry_run'] else 'CATEGORY'}"
    head = [
        *("method", "phase", "teacher", "batch"),
        *("images/s float32", "bfloat16", "loss float32", "bfloat16"),
        *("peak MB float32", "bfloat16", "inspected images/s"),
    ]
    return "\n".join(
        [
            "# Check on a GPU",
            "",
            origin(command, [found]),
            f"torch {found['torch']}, {found['images']} images of {found['geometry']}, "
            f"{found['seconds']:.0f} s in all.",
            "",
            "A dry run: tiny settings, made images, no meaning in the figures."
            if found["is_dry_run"]
            else "Profile `paper`, a few seconds for each phase and precision.",
            "Loss: mean of the last steps that both precisions took, from the same batches.",
            "",
            *markdown(head, [_table_row(row) for row in found["methods"]]),
            "",
            f"Two trainings at once: {_together_in_words(found['together'])}",
            "",
            f"A full device: {_full_device_in_words(found['full_device'])}",
            "",
        ]
    )


def _table_row(row: Row) -> list[str]:
    start = [f"`{row['method']}`", row["phase"]]
    if "error" in row:
        return [*start, f"**{row['error']}**", *[""] * 8]
    precisions = [row.get(name, {}) for name in PRECISIONS]
    return [
        *start,
        row["teacher"],
        str(row["batch"]),
        *(_number(part.get("images_per_second"), ".0f") for part in precisions),
        *(_number(part.get("loss"), ".4g") for part in precisions),
        *(_number(part.get("peak_megabytes"), ".0f") for part in precisions),
        _number(row.get("inspected_per_second"), ".0f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _together_in_words(found: Row) -> str:
    if "error" in found:
        return f"**{found['error']}**"
    rates = " and ".join(f"{one['images_per_second']:.0f}" for one in found["two"])
    return (
        f"`{found['method']}` trains {found['alone']['images_per_second']:.0f} images/s alone, "
        f"{rates} beside each other: {found['gain']:.2f} times as many."
    )


def _full_device_in_words(found: Row) -> str:
    if "error" in found:
        return f"**{found['error']}**"
    room = found["allowed_megabytes"]
    where = "as simulated on the CPU" if room is None else f"on a device limited to {room:.0f} MB"
    return (
        f"`{found['method']}` ran out of memory with batches of {found['batch_size']} {where}, and "
        f"was trained with {found['retried_with']}."
    )


if __name__ == "__main__":
    sys.exit(main())
