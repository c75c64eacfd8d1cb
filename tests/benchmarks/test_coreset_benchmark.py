"""The benchmark of PatchCore's choice of its memory, on images as small as the method takes."""

import json
from pathlib import Path

import numpy as np
from benchmarks.coreset import main
from PIL import Image


def test_the_chosen_patches_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "nut" / "train" / "good"
    folder.mkdir(parents=True)
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    what = ["--root", str(tmp_path), "--category", "nut", "--images", "2", "--side", "64"]
    out = tmp_path / "coreset.json"
    main([*what, "--coreset", "0.25", "--repeats", "1", "--out", str(out)])
    found = json.loads(out.read_bytes())
    assert (found["images"], found["chosen"]) == (2, 2 * 8 * 8 / 4)
