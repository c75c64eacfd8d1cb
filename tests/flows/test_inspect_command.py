"""``stillwatch inspect`` and ``export`` by the name of a category, and what they print."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_bundles import make_detector_bundle
from made_champions import MadeCategory
from made_detectors import small
from made_stores import new_store
from tests.flows.conftest import Plant

from stillwatch.settings import load_settings
from stillwatch.tasks.tracking.client import open_tracking

TESTED = "images/plate/test"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """A plant whose only category has two versions; the first is champion."""
    plant = Plant(tmp_path_factory.mktemp("inspect") / "line")
    (plant.folder / "home").mkdir(parents=True)
    params = plant.folder / "params.yaml"
    params.write_text(yaml.safe_dump({"training": {"device": "cpu"}}))
    settings = load_settings(params)
    category = MadeCategory(plant.images / "plate", new_store(settings), small(settings))
    assert [category.register(alpha=alpha) for alpha in (0.05, 0.25)] == [1, 2]
    category.make_champion(1)
    return plant


def inspected(plant: Plant, *arguments: str) -> list[dict[str, Any]]:
    done = plant.run_here("inspect", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def refusal(plant: Plant, *arguments: str) -> str:
    done = plant.run_here(*arguments)
    assert done.returncode == 1, done.stdout
    return " ".join(done.stderr.split())


def test_a_category_stands_for_its_champion_and_version_for_another(line: Plant) -> None:
    rows = {name: inspected(line, *name.split(), TESTED) for name in ("plate", "plate --version 2")}
    assert rows["plate"] == inspected(line, "models:/stillwatch-plate@champion", TESTED)
    other = inspected(line, "models:/stillwatch-plate/2", TESTED)
    assert rows["plate --version 2"] == other
    assert rows["plate"][0]["threshold"] > other[0]["threshold"]


def test_the_output_ends_with_counts_and_begins_with_the_worst(line: Plant) -> None:
    rows = inspected(line, "plate", TESTED)
    done = line.run_here("inspect", "plate", TESTED, "--out", "results")
    counts = Counter(row["verdict"] for row in rows)
    assert counts["reject"]
    assert (
        f"{len(rows)} inspected by version 1 of plate: {counts['pass']} pass, "
        f"{counts['review']} review, {counts['reject']} reject\npictures: results, "
    ) in done.stdout
    listed = [row.split()[1] for row in done.stdout.splitlines() if row.startswith("│")]
    assert listed == [name for name in ("reject", "review", "pass") for _ in range(counts[name])]
    assert "--out FOLDER" in line.run_here("inspect", "plate", TESTED).stdout


def test_a_file_that_is_no_image_is_named_and_not_counted_as_inspected(line: Plant) -> None:
    folder = line.folder / "new"
    folder.mkdir()
    image = next((line.images / "plate" / "test").rglob("*.png"))
    shutil.copy(image, folder / "a[red].png")
    (folder / "b.png").touch()
    done = line.run_here("inspect", "plate", "new")
    assert done.returncode == 1
    assert "new/a[red].png" in done.stdout, "a name is no markup"
    assert "1 inspected by version 1 of plate: " in done.stdout
    assert ", 1 not inspected\n" in done.stdout
    assert ": on average at most 5 % of good parts, calibrated on " in done.stdout


def test_of_many_images_the_worst_are_listed(line: Plant) -> None:
    done = line.run_here("inspect", "plate", "images/plate")
    files = sum(1 for _ in (line.images / "plate").rglob("*.png"))
    assert f"and {files - 20} more, none of them worse" in done.stdout


def test_a_folder_with_a_bundle_goes_before_a_category_of_its_name(
    line: Plant, tmp_path: Path
) -> None:
    shutil.copytree(line.state, tmp_path / ".stillwatch")
    shutil.copy(line.folder / "params.yaml", tmp_path)
    plant = Plant(tmp_path)
    image = next((line.images / "plate" / "test").rglob("*.png"))
    registered = inspected(plant, "plate", str(image))
    make_detector_bundle(tmp_path / "plate")
    assert inspected(plant, "plate", str(image)) == inspected(plant, "./plate", str(image))
    assert inspected(plant, "plate", str(image)) != registered
    assert inspected(plant, "plate", str(image), "--version", "1") == registered
    shown = plant.run_here("inspect", "plate", str(image)).stdout
    assert "inspected by the bundle plate: " in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plat",), "unknown category 'plat' (did you mean 'plate'?)"),
        (("plate", "--version", "7"), "plate has no version 7. It has 1, 2."),
        (("./plate",), "plate/bundle.json"),
        (("models:/stillwatch-plate/1", "--version", "2"), "Leave --version out"),
    ],
)
def test_a_name_that_is_none_is_refused(line: Plant, arguments: tuple[str, ...], said: str) -> None:
    assert said in refusal(line, "inspect", *arguments, TESTED)
    assert said in refusal(line, "export", *arguments, "--to", "onnx", "--out", "edge")


def test_without_a_champion_the_newest_version_is_named_with_what_it_finds(line: Plant) -> None:
    tracking = open_tracking(load_settings(line.folder / "params.yaml"))
    tracking.client.delete_registered_model_alias("stillwatch-plate", "champion")
    rows = inspected(line, "plate", TESTED + "/scratch", "--version", "2")
    found = sum(row["verdict"] == "reject" for row in rows)
    assert (
        f"plate has no champion yet; version 2 is registered (finds {found} of {len(rows)} "
        "defects). Try it: 'stillwatch inspect plate --version 2 IMAGES'."
    ) in refusal(line, "inspect", "plate", TESTED)
