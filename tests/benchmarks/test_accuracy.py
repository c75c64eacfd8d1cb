"""The accuracy benchmark: its page, and what it takes up where it stopped."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.accuracy import cell_name, digest_of_images, main, relevant_settings
from benchmarks.cells import is_there, read_cells
from benchmarks.published_figures import PUBLISHED
from benchmarks.results_page import render
from benchmarks.revision import commit

from stillwatch import detectors
from stillwatch.detectors import detector_classes
from stillwatch.settings import Settings

PIXELS = {"student_input": "pixels"}
ONE_MORE = """
from stillwatch.detectors.stfpm import STFPM

class Another(STFPM):
    name = "another"
"""


def cell(detector: str, seed: int, auroc: float, **changes: Any) -> dict[str, Any]:
    report = {
        "image_auroc": auroc,
        "image_ap": 0.9,
        "pixel_auroc": None,
        "aupro": None,
        "recall": 0.5,
        "ms_per_image": 31.4,
        "train_seconds": 100.0 + seed,
    }
    return {
        "category": "plate",
        "detector": detector,
        "seed": seed,
        "commit": "0123456789abcdef",
        "machine": "a machine",
        "settings": {
            "teacher": {"name": "net"},
            "images": {"size": 256},
            "profile": "laptop",
            "photographs": None,
            "detector": {},
        },
        "report": report,
        "megabytes": 12.3,
        "against_calibration_auroc": 0.77,
        "same_light_auroc": 0.66,
        "published_score_auroc": None,
    } | changes


def cell_of_pixels(seed: int, auroc: float, **changes: Any) -> dict[str, Any]:
    """Of EfficientAD, whose student of pixels uses photographs."""
    one = cell("efficient_ad", seed, auroc, **changes)
    return one | {"settings": one["settings"] | {"detector": PIXELS}}


def test_a_row_is_the_mean_over_seeds_and_half_their_range() -> None:
    cells = [cell("stfpm", seed, auroc) for seed, auroc in enumerate((0.8, 0.9, 0.85))]
    page = render(cells)
    assert "--categories plate --detectors stfpm --seeds 0 1 2 --out results`, commit" in page
    assert "commit 0123456789, a machine." in page
    assert "| stfpm | net, 256 | laptop | 3 | 0.850 ± 0.050 | 0.770 ± 0.000 |" in page
    assert "| 0.660 ± 0.000 | 0.900 ± 0.000 | – | – |" in page
    assert "| 31 ± 0 | 101 ± 1 | 12 ± 0 | – |" in page
    assert "| stfpm | 0.955 | 0.970 |" in page
    assert "patchcore" not in page


def test_other_teachers_and_sizes_have_rows_of_their_own() -> None:
    larger = {"teacher": {"name": "net"}, "images": {"size": 320}}
    other = cell("stfpm", 0, 0.9)
    page = render([cell("stfpm", 0, 0.8), other | {"settings": other["settings"] | larger}])
    assert "| stfpm | net, 256 | laptop | 1 | 0.800 |" in page
    assert "| stfpm | net, 320 | laptop | 1 | 0.900 |" in page


def test_other_settings_have_rows_of_their_own() -> None:
    changed = cell("stfpm", 0, 0.9)
    changed["settings"]["detector"] = {"optimizer": "sgd", "batch_size": 8}
    page = render([cell("stfpm", 0, 0.8), changed])
    assert "| stfpm | net, 256 | laptop | 1 | 0.800 |" in page
    assert "| stfpm | net, 256 | laptop; as published: optimizer=sgd | 1 | 0.900 |" in page
    names = [
        cell_name(Settings.model_validate({"detectors": {"stfpm": own}}), "plate", "stfpm", 0)
        for own in ({}, {"optimizer": "sgd"})
    ]
    assert names == [
        "plate-stfpm-efficientnet_lite0-256-0.json",
        "plate-stfpm-efficientnet_lite0-256-optimizer=sgd-0.json",
    ]


def test_a_row_says_which_of_its_settings_are_as_published() -> None:
    released = cell("reverse_distillation", 0, 0.9)
    own = {"loss": "per_position", "easy_share": 0.0, "disturbance": False, "relative": False}
    released["settings"]["detector"] = own
    page = render([cell("reverse_distillation", 0, 0.8), released])
    assert "| reverse_distillation | net, 256 | laptop | 1 | 0.800 |" in page
    assert (
        "| laptop, loss=per_position; as published: easy_share=0.0, disturbance=False, "
        "relative=False | 1 | 0.900 |"
    ) in page


def test_seeds_of_other_settings_or_images_are_not_averaged() -> None:
    other = cell("stfpm", 1, 0.9)
    other["settings"]["split"] = {"validation_share": 0.2}
    page = render([cell("stfpm", 0, 0.8), other])
    assert "| 1 | 0.800 |" in page
    assert "| 1 | 0.900 |" in page
    images = [cell("stfpm", seed, 0.8, category_digest=f"digest{seed}") for seed in (0, 1)]
    page = render([*images, cell("stfpm", 2, 0.8)])
    assert page.count("| stfpm | net, 256 | laptop | 1 | 0.800 |") == 3
    assert "Digest of the images, where recorded: digest0, digest1." in page


def test_cells_of_another_version_of_the_method_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = detector_classes()["stfpm"].version
    for seed, version in enumerate((now, now - 1)):
        one = cell("stfpm", seed, 0.9)
        one["settings"]["method_version"] = version
        (tmp_path / f"{seed}.json").write_text(json.dumps(one))
    gone = cell("no_more", 0, 0.9)
    gone["settings"]["method_version"] = 1
    (tmp_path / "2.json").write_text(json.dumps(gone))
    assert [one["seed"] for one in read_cells(tmp_path)] == [0]
    said = capsys.readouterr().out
    assert f"1.json: left out, since it is of stfpm in version {now - 1}" in said
    assert "2.json: left out, since it is of no_more in version 1" in said


def test_a_patch_teacher_that_was_taken_over_counts_as_training() -> None:
    own = cell_of_pixels(0, 0.8, taken_over={})
    taken = cell_of_pixels(1, 0.8, taken_over={"patch teacher small": 40.0})
    page = render([own, taken])
    assert "| 31 ± 0 | 120 ± 20 |" in page
    assert "training s includes the seconds of the patch teacher in every row." in page
    unrecorded = cell_of_pixels(2, 0.8, taken_over={"patch teacher small": None})
    for without in (unrecorded, cell_of_pixels(2, 0.8)):
        page = render([own, without])
        assert "do not record whether they trained it: efficient_ad on plate." in page
    assert "patch teacher" not in render([cell("stfpm", 0, 0.8)])


def test_what_trained_without_photographs_says_so() -> None:
    without = cell_of_pixels(0, 0.7)
    given = cell_of_pixels(0, 0.8)
    given["settings"] = given["settings"] | {"photographs": "digest"}
    page = render([without, given])
    assert "| efficient_ad | net, 256, no photographs |" in page
    assert "| efficient_ad | net, 256, photographs |" in page
    pixels = Settings.model_validate({"detectors": {"efficient_ad": PIXELS}})
    name = cell_name(pixels, "plate", "efficient_ad", 0)
    changed = "student_input=pixels-no_photographs"
    assert name == f"plate-efficient_ad-efficientnet_lite0-256-{changed}-0.json"


def test_a_papers_own_score_has_a_column() -> None:
    page = render([cell("patchcore", 0, 0.9, published_score_auroc=0.87)])
    assert "| 12 | 0.870 |" in page


def test_a_papers_own_score_that_tells_nothing_is_named() -> None:
    scores = {"multiresolution": 0.457, "patchcore": 0.87}
    page = render([cell(name, 0, 0.9, published_score_auroc=of) for name, of in scores.items()])
    assert "does not tell defective images from good ones: multiresolution on plate. " in page
    assert "A paper's score below" not in render([cell("stfpm", 0, 0.8)])


def test_published_figures_are_of_methods_that_are_there() -> None:
    assert set(PUBLISHED) <= set(detector_classes())


def test_a_method_that_one_file_adds_is_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "another_for_the_page.py").write_text(ONE_MORE)
    monkeypatch.setattr(detectors, "__path__", [*detectors.__path__, str(tmp_path)])
    detector_classes.cache_clear()
    try:
        page = render([cell("another", 0, 0.8)])
    finally:
        detector_classes.cache_clear()
    assert "| another | net, 256 | laptop | 1 | 0.800 |" in page
    assert "| another | – | – | – | – | – | – |" in page


@pytest.mark.parametrize(
    "change",
    [
        {"images": {"size": 128}},
        {"detectors": {"stfpm": {"epochs": 3}}},
        {"teacher": {"name": "resnet18.tv_in1k"}},
    ],
)
def test_a_cell_is_run_again_only_with_other_settings(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    file = tmp_path / "cell.json"
    wanted = relevant_settings(Settings(), "stfpm")
    assert not is_there(file, wanted)
    file.write_text(json.dumps(cell("stfpm", 0, 0.9) | {"settings": wanted}))
    assert is_there(file, wanted)
    assert is_there(file, relevant_settings(Settings(), "stfpm"))
    assert not is_there(file, relevant_settings(Settings.model_validate(change), "stfpm"))


def test_a_cell_of_other_images_is_run_again(tmp_path: Path) -> None:
    folder, file = tmp_path / "set" / "plate" / "train" / "good", tmp_path / "cell.json"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(b"an image")
    digest = digest_of_images(tmp_path / "set", "plate")
    settings = relevant_settings(Settings(), "stfpm")
    of_these = cell("stfpm", 0, 0.9, settings=settings, category_digest=digest)
    file.write_text(json.dumps(of_these))
    assert is_there(file, settings, digest)
    (folder / "0.png").write_bytes(b"another image")
    assert not is_there(file, settings, digest_of_images(tmp_path / "set", "plate"))
    file.write_text(json.dumps(cell("stfpm", 0, 0.9, settings=settings)))
    assert is_there(file, settings, digest), "cells of earlier commits do not say"


def test_an_unknown_method_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("{}")
    command = ["accuracy", "--root", str(tmp_path), "--out", str(tmp_path / "out")]
    command += ["--categories", "nowhere", "--detectors", "stfpm", "stfmp", "--params", str(params)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match=r"^unknown detector 'stfmp' \(did you mean 'stfpm'\?"):
        main()


def test_the_commit_says_where_tracked_files_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("code.py", "docs/page.md", "benchmarks/results/cell.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("committed")
    own = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], [*own, "commit", "--quiet", "-mfirst"]):
        subprocess.run(["git", *command], check=True)
    clean = commit()
    assert len(clean) == 40
    for name in ("docs/page.md", "benchmarks/results/cell.json", "untracked.py"):
        (tmp_path / name).write_text("written since")
    assert commit() == clean
    (tmp_path / "code.py").write_text("written since")
    assert commit() == f"{clean}+changes"
    assert f"commit {clean[:10]}+changes, a machine." in render(
        [cell("stfpm", 0, 0.9, commit=commit())]
    )
