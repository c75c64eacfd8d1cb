"""How well the maps of multiresolution distillation localise: its forward map, and its gradients.

Takes the detector that a cell of ``benchmarks.accuracy`` trained and computes every map of the same
test images. Writes one JSON file per category and renders ``docs/localisation.md`` of all that lie
in the folder.

    .venv/bin/python -m benchmarks.localisation --root mvtec --every 4 \
        --cell results/screw-multiresolution-efficientnet_lite0-256-0.json \
        --out results/localisation
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.bundle_images import read_pixels
from benchmarks.cells import Cell, read_cells, write_page
from benchmarks.input_gradients import (
    gradient_maps,
    guided_gradient_maps,
    opened,
    smooth_gradient_maps,
)
from benchmarks.revision import commit, machine
from benchmarks.tables import markdown, origin
from stillwatch.bundle import BundleInfo, read_bundle
from stillwatch.detectors.multiresolution import Multiresolution
from stillwatch.evaluation.pixel_metrics import count_pixels, exact_pixel_metrics, sort_pixels
from stillwatch.files import write_json
from stillwatch.images.layout import ImageFile, scan_category
from stillwatch.images.masks import read_mask, resize_mask
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.resizing import resize_map
from stillwatch.inference.torch_scorer import TorchScorer, load_scorer
from stillwatch.settings import load_settings
from stillwatch.tasks.tracking.client import BUNDLE, open_tracking
from stillwatch.teachers.networks import images_to_input

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
        scorer = load_scorer(bundle, "cpu")
    category = scan_category(given.root / cell["category"])
    chosen = [*category.test_normals, *category.test_anomalies][:: given.every]
    images, masks = _read(category.folder, chosen, bundle.info)
    mapper = ImageMapper(scorer, bundle.info.geometry, bundle.info.combination)
    result = {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "detector": cell["detector"],
        "category": cell["category"],
        "settings": cell["settings"],
        "images": len(images),
        "every": given.every,
        "rows": measured(mapper, images, masks),
    }
    write_json(given.out / f"{cell['category']}.json", result)
    write_page(given.page, render(list(read_cells(given.out))))


def measured(
    mapper: ImageMapper, images: NDArray[np.uint8], masks: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """The rows of the table: the forward map, then each gradient map, as it is and opened.

    Args:
        mapper: of a trained detector, run by PyTorch.
        images: uint8 (N, H, W, 3), of one tile, with normals among them.
        masks: (N, H, W), true where an image is defective.
    """
    detector = cast(Multiresolution, cast(TorchScorer, mapper.scorer).detector)
    scores = detector.published_scores
    gradients: dict[str, Maps] = {
        "gradient": lambda batch: gradient_maps(scores, batch),
        "SmoothGrad": lambda batch: smooth_gradient_maps(scores, batch),
        "guided": lambda batch: guided_gradient_maps(scores, detector.cloner, batch),
    }
    started = time.perf_counter()
    enlarged = [resize_map(one, *masks.shape[1:]) for one in mapper.maps(images)]
    seconds = (time.perf_counter() - started) / len(images)
    found = torch.from_numpy(np.stack(enlarged))
    rows = [row("forward", found, masks, seconds)]
    for name, maps in gradients.items():
        found, seconds = _timed(maps, images_to_input(torch.from_numpy(images)))
        rows.append(row(name, found, masks, seconds))
        wide, more = _timed(opened, found)
        rows.append(row(f"{name}, opened", wide, masks, seconds + more))
    return rows


def _timed(maps: Maps, given: Tensor) -> tuple[Tensor, float]:
    """The maps, one image at a time, and the seconds that one took."""
    started = time.perf_counter()
    with torch.no_grad():
        found = torch.cat([maps(one) for one in torch.split(given, 1)])
    return found, (time.perf_counter() - started) / len(given)


def _read(
    folder: Path, chosen: list[ImageFile], info: BundleInfo
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images (N, H, W, 3) and masks (N, H, W), all of one shape."""
    pixels = np.stack(read_pixels(folder, chosen, info))
    height, width = pixels.shape[1:3]
    masks = np.zeros((len(chosen), height, width), np.bool_)
    for mask, image in zip(masks, chosen, strict=True):
        if image.mask is not None:
            found = read_mask(folder / image.mask, max_megapixels=math.inf)
            mask[:] = resize_mask(found, height, width)
    return pixels, masks


def row(name: str, maps: Tensor, masks: NDArray[np.bool_], seconds: float) -> dict[str, Any]:
    """A row of the table.

    Args:
        name: of the kind of map.
        maps: float32 (N, H, W).
        masks: (N, H, W), true where an image is defective.
        seconds: that an image took.
    """
    found = maps.numpy()
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


def render(results: Sequence[Cell]) -> str:
    """The page in Markdown."""
    lines = [
        "# Maps of multiresolution distillation",
        "",
        "ROOT is the folder that contains the category; CELL is a file that `benchmarks.accuracy` "
        "wrote.",
        "",
        "stillwatch uses and exports the forward map: the loss at each position. The other maps "
        "are those of the paper: the gradient of the loss with respect to the image, its mean over "
        "noisy copies (SmoothGrad), and guided backpropagation; *opened* maps are smoothed by a "
        "morphological opening. As in the authors' code, each gradient map is scaled to [0, 1] "
        "separately, so it shows where a defect is in an image and not which images have one; the "
        "paper's figures are from defective images only. All maps of a category come from one "
        "trained network. In the tests, each kind of map finds planted defects in made images.",
        "",
        "The gradients are those of the paper's image score, whose AUROC is in "
        "[results.md](results.md): a gradient map cannot know more than this score. The paper's "
        "source network (VGG-16) and its length of training were not measured.",
    ]
    for result in results:
        lines += ["", *_section(result)]
    return "\n".join(lines) + "\n"


def _section(result: Cell) -> list[str]:
    settings = result["settings"]
    command = f"python -m benchmarks.localisation --root ROOT --cell CELL --every {result['every']}"
    rows = [
        [
            one["map"],
            *(f"{one[name]:.3f}" for name in _FIGURES),
            f"{1000 * one['seconds_per_image']:.0f}",
        ]
        for one in result["rows"]
    ]
    return [
        f"## {result['category']}",
        "",
        origin(f"{command} --out results/localisation", [result]),
        "",
        f"{result['images']} test images, teacher {settings['teacher']['name']} at "
        f"{settings['images']['size']} pixels.",
        "",
        *markdown(["map", *_FIGURES.values(), "ms/image"], rows),
    ]


if __name__ == "__main__":
    main()
