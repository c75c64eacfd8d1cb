"""Peak memory and time of inspecting, serving and training with images of 100 megapixels.

Makes images of noise over stripes, and trains a detector on small ones in tiles of 256 pixels at
scale 1.0. Then one large image is inspected with each runtime and by the service, and a set of a
few is read and trained on; each of these is a process of its own, whose memory is measured. Writes
one JSON file and prints the section of ``docs/large-images.md``.

    .venv/bin/python -m benchmarks.large_images_memory --detector patchcore \
        --out benchmarks/results/large_images
"""

import argparse
import http.client
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import uvicorn
import yaml
from mlflow.entities.model_registry import ModelVersion
from PIL import Image

from benchmarks.revision import commit, machine, short_commit
from benchmarks.tables import markdown
from stillwatch.bundle import read_bundle
from stillwatch.detectors import detector_settings
from stillwatch.export.export import export_bundle
from stillwatch.files import write_json
from stillwatch.flows.serving.app import make_app
from stillwatch.flows.serving.champions import CategoryState
from stillwatch.flows.serving.served_model import ServedModel
from stillwatch.geometry import Shape
from stillwatch.images.decode import read_shape
from stillwatch.images.layout import scan_category
from stillwatch.images.manifest import build_manifest
from stillwatch.images.store import ImageStore, store_writer
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.score_log import open_score_log
from stillwatch.inference.torch_scorer import load_scorer
from stillwatch.settings import Settings
from stillwatch.tasks.registry.versions import model_name
from stillwatch.training.job import TrainingJob, run_training

CATEGORY = "made"
SMALL = (320, 320)
_PARTS = ("train", "train", "validation", "calibration")
"""Of the images of a set: as few as a training needs with a false-alarm rate of 0.5."""
_SAMPLE_SECONDS = 0.1
_READY_SECONDS = 120.0
_PICTURE = "?mask=true&overlay=true"


@dataclass
class Peak:
    """The largest process, in bytes, and the duration."""

    resident: int = 0
    private: int = 0
    """Without pages of files, such as the store, which the kernel takes back when it needs them."""
    seconds: float = 0.0


def main() -> None:
    """Measure, write the JSON file, and print the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", default="patchcore")
    parser.add_argument("--shape", nargs=2, type=int, default=[9000, 12000], help="of the image")
    parser.add_argument("--training-shape", nargs=2, type=int, help="that of --shape if not given")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    given = parser.parse_args()
    shape, training = tuple(given.shape), tuple(given.training_shape or given.shape)
    file = given.out / f"memory-{given.detector}.json"
    given.out.mkdir(parents=True, exist_ok=True)
    result = {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "detector": given.detector,
        "rows": [],
    }
    for row in measure(given.detector, shape, training):
        print(row, flush=True)
        result["rows"].append(row)
        write_json(file, result)
    print(render(result))


def measure(detector: str, shape: Shape, training_shape: Shape) -> Iterator[dict[str, Any]]:
    """One row for each kind of work, as soon as it is done.

    Args:
        detector: its name.
        shape: of the image that is inspected.
        training_shape: of the images of the set.
    """
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        folder = Path(made)
        settings = _settings(folder, detector)
        in_process(make_images, folder / "small" / CATEGORY, SMALL)
        in_process(read_images, folder / "small", settings)
        run_training(_job(folder / "small", settings, detector), on_epoch=lambda _report: None)
        bundles = _exports(folder / "small")
        image = in_process(make_images, folder / "one" / CATEGORY, shape, 1)
        pixels = shape[0] * shape[1]
        for name, bundle in bundles.items():
            with peak_of_children() as peak:
                _inspect(folder, bundle, image)
            yield _row(f"inspect, {name}", peak, pixels)
        with peak_of_children() as peak:
            answer = _asked(settings, bundles["PyTorch"], image)
        row = _row("serve, PyTorch, with mask and picture", peak, pixels)
        yield row | {"answer_mb": round(answer / 1e6, 2)}
        image.unlink()
        pixels = len(_PARTS) * training_shape[0] * training_shape[1]
        in_process(make_images, folder / "large" / CATEGORY, training_shape)
        with peak_of_children() as peak:
            in_process(read_images, folder / "large", settings)
        yield _row("read the image set", peak, pixels)
        with peak_of_children() as peak:
            job = _job(folder / "large", settings, detector)
            run_training(job, on_epoch=lambda _report: None)
        yield _row("train, one epoch", peak, pixels)


def _row(what: str, peak: Peak, pixels: int) -> dict[str, Any]:
    megapixels = pixels / 1e6
    return {
        "what": what,
        "megapixels": round(megapixels, 1),
        "resident_gb": round(peak.resident / 1e9, 2),
        "private_gb": round(peak.private / 1e9, 2),
        "seconds_per_megapixel": round(peak.seconds / megapixels, 3),
    }


@contextmanager
def peak_of_children() -> Iterator[Peak]:
    """Measure the processes that this one starts meanwhile; of each moment, the largest counts."""
    peak, stop = Peak(), threading.Event()
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    def sample() -> None:
        while not stop.wait(_SAMPLE_SECONDS):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    memory = child.memory_info() if child.pid not in before else None
                    if memory is not None:
                        peak.resident = max(peak.resident, memory.rss)
                        peak.private = max(peak.private, memory.rss - memory.shared)

    thread = threading.Thread(target=sample)
    thread.start()
    began = time.perf_counter()
    try:
        yield peak
    finally:
        peak.seconds = time.perf_counter() - began
        stop.set()
        thread.join()


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def make_images(folder: Path, shape: Shape, count: int = len(_PARTS)) -> Path:
    """Write train normals of noise over stripes; the path of the first."""
    (folder / "train/good").mkdir(parents=True)
    height, width = shape
    stripes = (80 + 60 * (np.arange(width) // 37 % 2)).astype(np.uint8)[None, :, None]
    for number in range(count):
        random = np.random.default_rng(number)
        pixels = random.integers(0, 48, (height, width, 3), np.uint8)
        pixels += stripes
        file = folder / f"train/good/{number}.png"
        Image.fromarray(pixels).save(file, compress_level=1)
    return folder / "train/good/0.png"


def read_images(root: Path, settings: Settings) -> None:
    """Build the manifest and the store of a category, as the flows do."""
    category = scan_category(root / CATEGORY)
    shapes = {image.path: read_shape(category.folder / image.path) for image in category.images}
    geometry = settings.images.geometry(list(shapes.values()))
    with store_writer(root / "store", shapes, geometry) as store:
        build_manifest(
            category,
            images=settings.images,
            expected_md5=None,
            parts=None,
            on_pixels=store.add,
        )


def _settings(folder: Path, detector: str) -> Settings:
    values: dict[str, Any] = {
        "state_dir": str(folder / "state"),
        "images": {"scale": 1.0, "size": 256},
        "calibration": {"alpha_reject": 0.5, "alpha_review": 0.5},
        "training": {"device": "cpu", "profile": "laptop"},
        "detectors": {"reverse_distillation": {"epochs": 1}},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return Settings.model_validate(values)


def _job(root: Path, settings: Settings, detector: str) -> TrainingJob:
    paths = ImageStore.open(root / "store").paths
    parts: dict[str, tuple[str, ...]] = {
        part: tuple(path for path, own in zip(paths, _PARTS, strict=True) if own == part)
        for part in _PARTS
    }
    return TrainingJob(
        category=CATEGORY,
        detector=detector,
        detector_settings=detector_settings(detector, settings).model_dump(mode="json"),
        teacher=settings.teacher,
        training=settings.training,
        calibration=settings.calibration,
        white_level=255,
        store=root / "store",
        parts=parts,
        region=None,
        groups={},
        checkpoint=root / "checkpoint",
        shared=root / "shared",
        bundle=root / "bundle",
        fingerprint="",
        provenance={},
    )


def _exports(root: Path) -> dict[str, Path]:
    bundle = read_bundle(root / "bundle")
    images = ImageStore.open(root / "store").images
    export_bundle(bundle, root / "onnx", "onnx", images)
    export_bundle(bundle, root / "openvino", "openvino", images)
    return {
        "PyTorch": root / "bundle",
        "ONNX Runtime": root / "onnx",
        "OpenVINO": root / "openvino",
    }


def _inspect(folder: Path, bundle: Path, image: Path) -> None:
    params, out = str(folder / "params.yaml"), str(folder / "out" / bundle.name)
    stillwatch = (sys.executable, "-c", "from stillwatch.flows.cli import main; main()")
    asked = ("inspect", str(bundle), str(image), "--out", out, "--json")
    subprocess.run([*stillwatch, "--params", params, *asked], check=True, capture_output=True)


def _asked(settings: Settings, bundle: Path, image: Path) -> int:
    """Start the service, send it an image, and return the bytes of its answer."""
    spawn = multiprocessing.get_context("spawn")
    port = spawn.Queue()
    service = spawn.Process(target=_serve, args=(settings, bundle, port))
    service.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port.get(timeout=_READY_SECONDS))
        headers = {"Content-Type": "image/png"}
        connection.request("POST", f"/inspect/{CATEGORY}{_PICTURE}", image.read_bytes(), headers)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise SystemExit(f"the service answered {reply.status}: {body[:500]!r}")
        return len(body)
    finally:
        service.terminate()
        service.join()


def _serve(settings: Settings, bundle: Path, port: Any) -> None:
    opened = read_bundle(bundle)
    with open_score_log(settings) as log, ThreadPoolExecutor(1) as compute:
        inspector = Inspector(opened, load_scorer(opened, "cpu"), settings.serving.batch_size)
        version = ModelVersion(model_name(CATEGORY), "1", 0)
        model = ServedModel(version, inspector, settings, compute, log)
        app = make_app(_OneModel(model), settings.serving, None)  # type: ignore[arg-type]
        config = uvicorn.Config(app, port=0, log_level="warning")
        listener = config.bind_socket()
        port.put(listener.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listener])


class _OneModel:
    """In place of ``Champions``, which need a registry."""

    looked = ready = registry_answers = True

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def expects(self, category: str) -> bool:
        return category == CATEGORY

    def model(self, category: str) -> ServedModel | None:
        return self._model if category == CATEGORY else None

    def states(self) -> dict[str, CategoryState]:
        return {CATEGORY: CategoryState(1, None)}


def render(result: Mapping[str, Any]) -> str:
    """The section in Markdown."""
    head = ("work", "megapixels", "peak GB", "without files GB", "s per megapixel")
    names = ("what", "megapixels", "resident_gb", "private_gb", "seconds_per_megapixel")
    rows: Sequence[Sequence[str]] = [[str(row[name]) for name in names] for row in result["rows"]]
    return "\n".join(
        [
            "## Memory",
            "",
            f"`python -m benchmarks.large_images_memory --detector {result['detector']} --out "
            f"benchmarks/results/large_images`, commit {short_commit(result['commit'])}, "
            f"{result['machine']}. Scale 1.0, tiles of 256 pixels.",
            "",
            "*Peak* is the resident memory of the largest process; *without files* leaves out "
            "pages of files, such as the store of decoded images, which the kernel takes back when "
            "memory is short. The seconds are those of the whole process, its start included.",
            "",
            *markdown(head, rows),
            "",
        ]
    )


if __name__ == "__main__":
    main()
