r"""The same methods in stillwatch and in anomalib, side by side in one run on the CPU.

Both sides have the same teacher with the same weights, the same images, scaled to the same size and
split alike, the same number of epochs and, for PatchCore, the same share of patches in the coreset.
Else stillwatch has its profile ``laptop`` and anomalib its defaults; EfficientAD is the published
one on both sides, and reverse distillation has no memory, as in anomalib. Training is timed from
the scaled images: stillwatch has decoded them, anomalib decodes small PNG files of them. Test
images are inspected one by one, decoded before, from pixels to score and map. The same code
computes the AUROC of both sides' scores.

anomalib is no dependency of stillwatch and has an environment of its own, whose Python is named
with ``--python``; where it is not installed, nothing is measured::

    python3 -m venv anomalib-venv
    anomalib-venv/bin/pip install torch torchvision 'anomalib>=2.7'
    .venv/bin/python -m benchmarks.against_anomalib ROOT/commutator --group '^(kos\d+)' \
        --python anomalib-venv/bin/python --out benchmarks/results/against_anomalib

One JSON file per category, method and teacher; a cell that is there is not measured again. anomalib
has reverse distillation for ResNets only (``--teacher resnet18``). EfficientAD needs
``--photographs``. A network without weights on this machine gets the same random ones on both
sides: the table says so, and of its row only the times mean something.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks.cells import Cell, complete, read_cells
from benchmarks.direct import STORE, laptop_settings, split_of, trained_bundle
from benchmarks.revision import commit, machine
from benchmarks.tables import markdown, origin, publish
from stillwatch.detectors import detector_class, detector_settings
from stillwatch.detectors.blocks.description_networks import PUBLIC_CHANNELS, DescriptionNetwork
from stillwatch.errors import StillwatchError, TeacherError
from stillwatch.geometry import Tile
from stillwatch.images.layout import scan_category
from stillwatch.images.store import ImageStore
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.scorers import open_scorer
from stillwatch.settings import Settings, TeacherSettings
from stillwatch.teachers.networks import STRIDES, Teacher, empty_teacher, load_teacher
from stillwatch.teachers.weights import WEIGHT_PACKAGES, find_weights

METHODS = {"patchcore": STRIDES[1:], "stfpm": STRIDES, "reverse_distillation": STRIDES}
"""Method -> strides of the teacher's levels."""
EFFICIENT_AD = "efficient_ad"
SEED = 0
WARM_UP = 3
"""Images that are inspected before the clock runs."""
_THEIR_PROGRAM = Path(__file__).with_name("anomalib_side.py")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cells that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("category", type=Path, help="folder in MVTec layout")
    parser.add_argument("--python", type=Path, required=True, help="of anomalib's environment")
    methods = [*METHODS, EFFICIENT_AD]
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--teacher", default="efficientnet_lite0")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="of the teachers")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=256, help="images.size")
    parser.add_argument("--group", help="split.group_pattern")
    parser.add_argument("--photographs", type=Path, help="folder, for efficient_ad")
    parser.add_argument("--pdn", type=Path, help="public weights of PDN-S, for efficient_ad")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="file of the table; printed if not given")
    given = parser.parse_args(arguments)
    if not has_anomalib(given.python):
        print(
            f"{given.python} has no anomalib: nothing was measured. The docstring of "
            "benchmarks.against_anomalib says how to make its environment."
        )
        return
    for method in given.methods:
        if method == EFFICIENT_AD and given.photographs is None:
            print(f"{method} is left out: anomalib trains it on --photographs as well.")
            continue
        teacher = "pdn" if method == EFFICIENT_AD else given.teacher
        file = given.out / f"{given.category.name}-{method}-{teacher}.json"
        version = {"method_version": detector_class(method).version}
        settings = version | {"epochs": given.epochs, "size": given.size}
        try:
            complete(file, settings, partial(measure, given, method))
        except StillwatchError as error:
            sys.exit(str(error))
    publish(render(list(read_cells(given.out))), given.page)


def has_anomalib(python: Path) -> bool:
    """Whether this Python can import anomalib."""
    try:
        done = subprocess.run([python, "-I", "-c", "import anomalib"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def measure(given: argparse.Namespace, method: str) -> Cell:
    """Train and inspect with both.

    Args:
        given: the arguments of the command line.
        method: one of ``METHODS``, or ``EFFICIENT_AD``.
    """
    category = scan_category(given.category)
    test = [image.path for image in (*category.test_normals, *category.test_anomalies)]
    images = {"train": [], "validation": [], "calibration": [], "test": test}
    for path, part in split_of(category, laptop_settings(given.weights, given.group)).items():
        images[part].append(path)
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        folder = Path(made)
        weights, is_random = _weights(given, method, folder)
        settings = _settings(given, method, weights, steps=given.epochs * len(images["train"]))
        ours = _ours(given.category, settings, method, test, folder)
        theirs = _theirs(given, method, settings, images, folder)
    labels = [False] * len(category.test_normals) + [True] * len(category.test_anomalies)
    for side in (ours, theirs):
        if "scores" in side:
            side["auroc"] = float(roc_auc_score(labels, side.pop("scores")))
    return {
        "category": category.name,
        "detector": method,
        "teacher": "PDN-S" if method == EFFICIENT_AD else given.teacher,
        "has_random_weights": is_random,
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "train_images": len(images["train"]),
        "stillwatch": ours,
        "anomalib": theirs,
    }


def _weights(given: argparse.Namespace, method: str, folder: Path) -> tuple[Path, bool]:
    """A file that both sides can read: of PDN-S or of the teacher; and whether it is random."""
    torch.manual_seed(SEED)
    if method == EFFICIENT_AD:
        if given.pdn is not None:
            return given.pdn, False
        state = DescriptionNetwork("small", PUBLIC_CHANNELS).state_dict()
    else:
        found = TeacherSettings(name=given.teacher, weights_dir=given.weights)
        try:
            return find_weights(found).path, False
        except TeacherError:
            state = empty_teacher(given.teacher, "").network.state_dict()
    file = folder / f"{given.teacher}.pth"
    torch.save(state, file)
    return file, True


def _settings(given: argparse.Namespace, method: str, weights: Path, *, steps: int) -> Settings:
    own: dict[str, Any] = {} if method == "patchcore" else {"epochs": given.epochs}
    if method == "reverse_distillation":
        own["memory"] = 0
    if method == EFFICIENT_AD:
        own = {**detector_class(method).paper, "steps": steps, "teacher_weights": weights}
    return Settings.model_validate(
        {
            "images": {"size": given.size},
            "split": {"group_pattern": given.group},
            "teacher": {"name": given.teacher, "weights_dir": weights.parent},
            "training": {
                "profile": "laptop",
                "device": "cpu",
                "photographs": given.photographs,
            },
            "detectors": {method: own},
        }
    )


def _ours(
    category: Path, settings: Settings, method: str, test: Sequence[str], folder: Path
) -> dict[str, Any]:
    bundle = trained_bundle(category, settings, method, SEED, folder)
    inspector = Inspector(bundle, open_scorer(bundle, "cpu"))
    images = ImageStore.open(folder / STORE).part(test)
    scores, times = [], []
    for image in [*images[:WARM_UP], *images]:
        began = time.perf_counter()
        (found,) = inspector.inspect([image])
        times.append(1000 * (time.perf_counter() - began))
        scores.append(found.score)
    return {
        "torch": torch.__version__,
        "train_seconds": bundle.info.training.seconds,
        "ms_per_image": median(times[WARM_UP:]),
        "scores": scores[WARM_UP:],
    }


def _theirs(
    given: argparse.Namespace,
    method: str,
    settings: Settings,
    images: dict[str, Sequence[str]],
    folder: Path,
) -> dict[str, Any]:
    store = ImageStore.open(folder / STORE)
    for part, paths in images.items():
        (folder / part).mkdir()
        for number, image in enumerate(store.part(paths)):
            tile = store.geometry.cut(image, Tile(0, 0))
            Image.fromarray(tile).save(folder / part / f"{number:05}.png")
    job = {
        "method": method,
        "folder": str(folder),
        "size": store.geometry.tile,
        "epochs": given.epochs,
        "seed": SEED,
        "warm_up": WARM_UP,
        **(_pdn_job if method == EFFICIENT_AD else _teacher_job)(method, settings, folder),
    }
    done = subprocess.run(
        [given.python, "-I", _THEIR_PROGRAM],
        input=json.dumps(job) + "\n",
        env={**os.environ, "HF_HUB_OFFLINE": "1"},  # nothing is to be downloaded
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _teacher_job(method: str, settings: Settings, folder: Path) -> dict[str, Any]:
    teacher: Teacher = load_teacher(settings.teacher)
    file = folder / "network.pth"
    torch.save(teacher.network.state_dict(), file)
    name = teacher.name
    own = detector_settings(method, settings).model_dump()
    return {
        "backbone": f"tf_{name}" if name in WEIGHT_PACKAGES else name,  # timm's name
        "strides": METHODS[method],
        "weights": str(file),
        "mean": teacher.mean.flatten().tolist(),
        "std": teacher.std.flatten().tolist(),
        "coreset": own.get("coreset"),
    }


def _pdn_job(method: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """The network's tensors under anomalib's names, and photographs in a folder of folders."""
    network = DescriptionNetwork("small", PUBLIC_CHANNELS)
    network.load_public(settings.detectors[method]["teacher_weights"])
    convolutions = [x for x in network.children() if isinstance(x, torch.nn.Conv2d)]
    state = {
        f"conv{number}.{kind}": value
        for number, convolution in enumerate(convolutions, start=1)
        for kind, value in convolution.state_dict().items()
    }
    file = folder / "network.pth"
    torch.save(state, file)
    photographs = folder / "photographs"
    photographs.mkdir()
    (photographs / "all").symlink_to(settings.training.photographs.resolve())
    return {"weights": str(file), "photographs": str(photographs)}


def render(cells: Sequence[Cell]) -> str:
    """The table: both sides of each cell, and how many times faster stillwatch is."""
    head = [
        *("category", "method", "teacher", "epochs"),
        *("training, s per image", "anomalib", "times"),
        *("inspection, ms", "anomalib", "times"),
        *("AUROC", "anomalib"),
    ]
    versions = {cell["anomalib"].get("version") for cell in cells} - {None}
    return "\n".join(
        [
            "# Beside anomalib",
            "",
            origin("python -m benchmarks.against_anomalib", cells),
            f"anomalib {', '.join(sorted(versions))}. Training: seconds of the whole training for "
            "each training image. Inspection: median of the test images, one by one.",
            "",
            *markdown(head, [_row(cell) for cell in cells]),
            "",
        ]
    )


def _row(cell: Cell) -> list[str]:
    ours, theirs = cell["stillwatch"], cell["anomalib"]
    teacher = cell["teacher"] + (", random weights" if cell["has_random_weights"] else "")
    start = [cell["category"], f"`{cell['detector']}`", teacher, str(cell["settings"]["epochs"])]
    trained, inspected = ours["train_seconds"] / cell["train_images"], ours["ms_per_image"]
    auroc = f"{ours['auroc']:.3f}"
    if "error" in theirs:
        none = [theirs["error"], "–"]
        return [*start, f"{trained:.3f}", *none, f"{inspected:.1f}", "–", "–", auroc, "–"]
    trained_there = theirs["train_seconds"] / cell["train_images"]
    return [
        *start,
        *(f"{trained:.3f}", f"{trained_there:.3f}", f"{trained_there / trained:.1f}"),
        *(f"{inspected:.1f}", f"{theirs['ms_per_image']:.1f}"),
        *(f"{theirs['ms_per_image'] / inspected:.1f}", auroc, f"{theirs['auroc']:.3f}"),
    ]


if __name__ == "__main__":
    main()
