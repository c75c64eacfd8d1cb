"""How well the maps of multiresolution distillation localise: its forward map, and its gradients.

Takes the detector that a cell of ``benchmarks.accuracy`` trained and computes every map of the same
test images. The paper's figures are of defective images only, so that both are printed; opening is
the morphological one. Prints a table and writes JSON.

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
from benchmarks.revision import commit
from stillwatch.bundle import BundleInfo, read_bundle
from stillwatch.detectors.input_gradients import (
    gradient_maps,
    guided_gradient_maps,
    opened,
    smooth_gradient_maps,
)
from stillwatch.detectors.multiresolution import Multiresolution
from stillwatch.images.decode import read_mask, resize_mask
from stillwatch.images.layout import ImageFile, scan_category
from stillwatch.region_overlap import count_pixels, exact_pixel_metrics, sort_pixels
from stillwatch.settings import load_settings
from stillwatch.teachers import images_to_input
from stillwatch.torch_scorer import load_scorer
from tasks.tracking import BUNDLE, open_tracking

Maps = Callable[[Tensor], Tensor]


def main() -> None:
    """Compute all maps, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cell", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take each n-th test image")
    parser.add_argument("--out", type=Path, required=True)
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
    result = {"commit": commit(), "cell": cell["settings"], "images": len(images), "rows": rows}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{cell['category']}, {len(images)} test images")
    _print_table(rows)


def variants(detector: Multiresolution) -> dict[str, Maps]:
    """The maps that are compared, by name."""
    scores = detector.published_scores
    gradients: dict[str, Maps] = {
        "gradient": lambda images: gradient_maps(scores, images),
        "SmoothGrad": lambda images: smooth_gradient_maps(scores, images),
        "guided": lambda images: guided_gradient_maps(scores, detector, images),
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


def _print_table(rows: list[dict[str, Any]]) -> None:
    print("  ".join(f"{name:>28}" for name in rows[0]))
    for row in rows:
        name, *values = row.values()
        print("  ".join([f"{name:>28}", *(f"{value:>28.3f}" for value in values)]))


if __name__ == "__main__":
    main()
