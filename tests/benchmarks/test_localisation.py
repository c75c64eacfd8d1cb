"""The benchmark of multiresolution distillation's maps."""

import numpy as np
import pytest
import torch
from benchmarks.localisation import measured, render, row

from stillwatch.detectors.multiresolution import Multiresolution
from stillwatch.testing.battery import Trial
from stillwatch.testing.toys import DEFECT, SIDE, planted_defects, toy_normals


def test_every_map_of_a_trained_detector_finds_planted_defects() -> None:
    trial = Trial(Multiresolution)
    images = np.concatenate([toy_normals(2, first=50), planted_defects(2)])
    masks = np.zeros((4, SIDE, SIDE), np.bool_)
    masks[2:, DEFECT, DEFECT] = True
    rows = measured(trial.mapper(trial.trained, 1), images, masks)
    kinds = [
        kind for name in ("gradient", "SmoothGrad", "guided") for kind in (name, f"{name}, opened")
    ]
    assert [one["map"] for one in rows] == ["forward", *kinds]
    for one in rows:
        assert 0.6 < one["pixel_auroc_defective_images"] <= 1, one
    assert rows[0]["pixel_auroc"] > 0.9


def test_figures_of_a_map_that_knows_the_masks() -> None:
    masks = np.zeros((3, 8, 8), np.bool_)
    masks[1:, 2:4, 2:4] = True
    known = row("known", torch.from_numpy(masks.astype(np.float32)), masks, 0.25)
    figures = [known[key] for key in ("pixel_auroc", "aupro", "pixel_auroc_defective_images")]
    assert figures == pytest.approx([1, 1, 1])
    result = {
        "commit": "c" * 40,
        "machine": "x86_64",
        "category": "plate",
        "settings": {"teacher": {"name": "resnet18"}, "images": {"size": 8}},
        "images": 3,
        "every": 1,
        "rows": [known],
    }
    page = render([result, result | {"category": "cloth"}])
    assert ("## plate" in page, "## cloth" in page) == (True, True)
    assert "3 test images, teacher resnet18 at 8 pixels" in page
    assert "| known | 1.000 | 1.000 | 1.000 | 250 |" in page
