"""The benchmark of multiresolution distillation's maps."""

import numpy as np
import pytest
import torch

from benchmarks.localisation import measure, render, variants
from stillwatch.detectors.checks import Trial
from stillwatch.detectors.multiresolution import Multiresolution
from stillwatch.detectors.toys import DEFECT, SIDE, planted_defects, toy_normals
from stillwatch.teachers import images_to_input


def test_every_map_of_a_trained_detector_finds_planted_defects() -> None:
    detector = Trial(Multiresolution).trained
    assert isinstance(detector, Multiresolution)
    images = np.concatenate([toy_normals(2, first=50), planted_defects(2)])
    masks = np.zeros((4, SIDE, SIDE), np.bool_)
    masks[2:, DEFECT, DEFECT] = True
    pixels = images_to_input(torch.from_numpy(images))
    for name, maps in variants(detector).items():
        row = measure(name, maps, pixels, masks)
        assert row["map"] == name
        assert 0.6 < row["pixel_auroc_defective_images"] <= 1, row
    forward = measure("forward", variants(detector)["forward"], pixels, masks)
    assert forward["pixel_auroc"] > 0.9


def test_figures_of_a_map_that_knows_the_masks() -> None:
    masks = np.zeros((3, 8, 8), np.bool_)
    masks[1:, 2:4, 2:4] = True
    known = iter(torch.from_numpy(masks.astype(np.float32)))
    row = measure("known", lambda _: next(known)[None], torch.zeros(3, 3, 8, 8), masks)
    figures = [row[key] for key in ("pixel_auroc", "aupro", "pixel_auroc_defective_images")]
    assert figures == pytest.approx([1, 1, 1])
    page = render(
        {
            "commit": "c" * 40,
            "machine": "x86_64",
            "category": "plate",
            "settings": {"teacher": {"name": "resnet18"}, "images": {"size": 8}},
            "images": 3,
            "every": 1,
            "rows": [row],
        }
    )
    assert "3 test images of plate, teacher resnet18 at 8 pixels" in page
    assert "| known | 1.000 | 1.000 | 1.000 |" in page
