"""``dvc repro`` does what the flow does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_stores import new_store
from tests.flows.conftest import RESUMABLE, Plant, make_plant

from stillwatch.settings import Settings
from stillwatch.tasks import stages
from stillwatch.tasks.data.dvc_repository import initialise_dvc
from stillwatch.tasks.data.git import run_git

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("retrain")]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def laptop(tmp_path: Path) -> Plant:
    """A workspace of its own, with this project's pipeline and one category."""
    plant = make_plant(tmp_path / "laptop")
    run_git(plant.folder, "init", "--quiet", "--initial-branch=main")
    initialise_dvc(plant.folder)
    plant.images.rename(plant.folder / "data")
    pipeline = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert pipeline.count("[plate, cloth]") == 2
    (plant.folder / "dvc.yaml").write_text(
        pipeline.replace("[plate, cloth]", "[bolt]").replace("${retrain.detectors}", "[stfpm]"),
        encoding="utf-8",
    )
    plant.set_params(**RESUMABLE, teacher={}, split={}, categories={})
    new_store(Settings(state_dir=plant.state))
    return plant


def dvc(plant: Plant, *arguments: str) -> str:
    environment = plant.environment()
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=plant.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_repro_and_flow_give_the_same_metrics(laptop: Plant, first: dict[str, Any]) -> None:
    assert laptop.run_here("data", "add").returncode == 0
    dvc(laptop, "repro")
    shown = json.loads(dvc(laptop, "metrics", "show", "--json"))
    assert "up to date" in dvc(laptop, "repro")
    assert "index.html" in dvc(laptop, "plots", "show", "-o", "plots")

    flow = first["categories"]["bolt"]["detectors"]["stfpm"]["0"]
    metrics = shown[""]["data"]["results/bolt/stfpm/metrics.json"]["data"]
    assert not flow["reused"]
    figures = flow["metrics"] | {"threshold": flow["threshold"]}
    for name in ("image_auroc", "pixel_auroc", "aupro", "recall", "threshold"):
        assert metrics[name] == figures[name], name


def test_a_stage_refuses_a_misspelt_category_and_images_that_are_not_on_record(
    laptop: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "stillwatch data add" in refused_stage(laptop, capsys, "validate", "bolt")
    assert laptop.run_here("data", "add").returncode == 0
    assert "did you mean 'bolt'?" in refused_stage(laptop, capsys, "validate", "bolts")


def refused_stage(plant: Plant, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(plant.folder)
        for name, value in plant.environment().items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["stages", *arguments])
        assert stages.main() == 1
    return capsys.readouterr().err
