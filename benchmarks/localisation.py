"""How well the maps of multiresolution distillation localise: its forward map, and its gradients.

Takes the detector that a cell of ``benchmarks.accuracy`` trained and computes every map of the same
test images. Writes JSON and renders ``docs/localisation.md``.

    .venv/bin/python -m benchmarks.localisation --root mvtec --every 4 \
        --cell results/screw-multiresolution-efficientnet_lite0-256-0.json \
        --out results/localisation.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.bundle_images import read_pixels
from benchmarks.cells import Cell, write_page
from benchmarks.revision import commit, machine
from benchmarks.tables import markdown, origin
from stillwatch.bundle import BundleInfo, read_bundle
from stillwatch.detectors.input_gradients import (
    gradient_maps,
    guided_gradient_maps,
    opened,
    smooth_gradient_maps,
)
from stillwatch.detectors.multiresolution import Multiresolution
from stillwatch.files import write_json
from stillwatch.images.decode import read_mask, resize_mask
from stillwatch.images.layout import ImageFile, scan_category
from stillwatch.region_overlap import count_pixels, exact_pixel_metrics, sort_pixels
from stillwatch.settings import load_settings
from stillwatch.teachers import images_to_input
from stillwatch.torch_scorer import load_scorer
from tasks.tracking import BUNDLE, open_tracking

PAGE = Path("docs/localisation.md")
Maps = Callable[[Tensor], Tensor]
_FIGURES = {
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "pixel_auroc_defective_images": "pixel AUROC, defective images",
}


def main() -> None:
    """Compute all maps, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cell", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take each n-th test image")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    cell = json.loads(given.cell.read_bytes())
    settings = load_settings(given.cell.parent / "params.yaml")
    with open_tracking(settings).artifact(cell["report"]["run_id"], BUNDLE) as folder:
        bundle = read_bundle(folder)
        detector = cast(Multiresolution, load_scorer(bundle, "cpu").detector)
    category = scan_category(given.root / cell["category"])
    chosen = [*category.test_normals, *category.test_anomalies][:: given.every]
    images, masks = _read(category.folder, chosen, bundle.info)
    rows = [measure(name, maps, images, masks) for name, maps in variants(detector).items()]
    result = {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "category": cell["category"],
        "settings": cell["settings"],
        "images": len(images),
        "every": given.every,
        "rows": rows,
    }
    write_json(given.out, result)
    write_page(given.page, render(result))


def variants(detector: Multiresolution) -> dict[str, Maps]:
    """The maps that are compared, by name."""
    scores = detector.published_scores
    gradients: dict[str, Maps] = {
        "gradient": lambda images: gradient_maps(scores, images),
        "SmoothGrad": lambda images: smooth_gradient_maps(scores, images),
        "guided": lambda images: guided_gradient_maps(scores, detector.cloner, images),
    }
    return {"forward": detector.anomaly_map, **gradients} | {
        f"{name}, opened": _then_opened(maps) for name, maps in gradients.items()
    }


def _then_opened(maps: Maps) -> Maps:
    return lambda images: opened(maps(images))


def _read(
    folder: Path, chosen: list[ImageFile], info: BundleInfo
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Images (N, 3, S, S) in [0, 1] and masks (N, S, S)."""
    side = info.image_size
    pixels = read_pixels(folder, chosen, info)
    masks = np.zeros((len(chosen), side, side), np.bool_)
    for mask, image in zip(masks, chosen, strict=True):
        if image.mask is not None:
            mask[:] = resize_mask(read_mask(folder / image.mask), side)
    return images_to_input(torch.from_numpy(pixels)), masks


def measure(name: str, maps: Maps, images: Tensor, masks: NDArray[np.bool_]) -> dict[str, Any]:
    """A row of the table.

    Args:
        name: of the map.
        maps: float32 (B, 3, H, W) in [0, 1] to (B, H, W).
        images: float32 (N, 3, H, W) in [0, 1], with normals among them.
        masks: (N, H, W), true where an image is defective.
    """
    started = time.perf_counter()
    with torch.no_grad():
        found = np.concatenate([maps(image).numpy() for image in torch.split(images, 1)])
    seconds = (time.perf_counter() - started) / len(images)
    defective = masks.any(axis=(1, 2))
    everywhere = exact_pixel_metrics(count_pixels(sort_pixels(found, masks)))
    there = exact_pixel_metrics(count_pixels(sort_pixels(found[defective], masks[defective])))
    return {
        "map": name,
        "pixel_auroc": everywhere["pixel_auroc"],
        "aupro": everywhere["aupro"],
        "pixel_auroc_defective_images": there["pixel_auroc"],
        "seconds_per_image": seconds,
    }


def render(result: Cell) -> str:
    """The page in Markdown."""
    command = f"python -m benchmarks.localisation --root ROOT --cell CELL --every {result['every']}"
    settings = result["settings"]
    rows = [
        [
            row["map"],
            *(f"{row[name]:.3f}" for name in _FIGURES),
            f"{1000 * row['seconds_per_image']:.0f}",
        ]
        for row in result["rows"]
    ]
    lines = [
        "# Maps of multiresolution distillation",
        "",
        origin(f"{command} --out results/localisation.json", [result]),
        "ROOT is the folder that holds the category, CELL a file that `benchmarks.accuracy` wrote.",
        "",
        f"{result['images']} test images of {result['category']}, teacher "
        f"{settings['teacher']['name']} at {settings['images']['size']} pixels. The forward map is "
        "what stillwatch uses and exports: the loss at each position. The others are the paper's: "
        "the gradient of the loss with respect to the image, its mean over noisy copies "
        "(SmoothGrad), guided backpropagation; *opened* by a morphological opening. The paper's "
        "figures are of defective images only.",
        "",
        "All maps here come from one trained network. On the made images of the tests each kind of "
        "map tells planted defects from the rest. The gradients are of the paper's image score, "
        "whose AUROC [results.md](results.md) has. Why they say so little here is not known: the "
        "paper's source, a VGG-16, and its length of training were not measured.",
        "",
        *markdown(["map", *_FIGURES.values(), "ms/image"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
