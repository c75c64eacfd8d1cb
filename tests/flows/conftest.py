"""A plant with two product lines of tiny images, and the command line as its engineer uses it."""

import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from made_prefect import new_prefect_database, stop_servers_below
from made_stores import new_store
from PIL import Image
from tests.flows.waiting import runs, until

from stillwatch.flows.cli import main
from stillwatch.flows.servers.deployments import PREFECT_FILE
from stillwatch.flows.servers.prefect_server import ensure_local_server, local_server
from stillwatch.settings import Settings
from stillwatch.tasks.data.dvc_repository import initialise_dvc
from stillwatch.tasks.data.git import run_git

ROOT = Path(__file__).parents[2]
SIDE = 64
TINY = {
    "images": {"size": SIDE},
    "checks": {"min_train_normals": 4},
    "calibration": {"alpha_reject": 0.2, "alpha_review": 0.3},
    "detectors": {
        "stfpm": {"epochs": 1, "batch_size": 4},
        "reverse_distillation": {"epochs": 1, "batch_size": 4},
    },
    "evaluation": {"size": SIDE, "bootstrap_resamples": 100},
    "retrain": {
        "detectors": ["stfpm", "reverse_distillation"],
        "floors": {"image_auroc": 0.0, "aupro": 0.0, "recall": 0.0},
    },
}
RESUMABLE = {
    "training": {"checkpoint_every": 1},
    "detectors": TINY["detectors"] | {"stfpm": {"epochs": 20, "batch_size": 4}},
}
"""Sections of a training that lasts long enough to be killed after a checkpoint."""
SHARED = RESUMABLE | {
    "calibration": {"alpha_reject": 0.5, "alpha_review": 0.5},
    "categories": {"bolt": {"calibration": TINY["calibration"]}},
}
"""Sections of the plant that the tests share."""


_EVERY_5_SECONDS = ("PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY", "PT5S")
"""Automations look for what did not happen; an idle plant's server does so every 30 seconds."""


@dataclass(frozen=True)
class Plant:
    """A folder with settings, an image set and everything that stillwatch keeps."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    """What its engineer has in the environment, for example passwords."""

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def state(self) -> Path:
        return self.folder / ".stillwatch"

    def command(self, *arguments: str) -> list[str]:
        start = "from stillwatch.flows.cli import main; main()"
        return [sys.executable, "-W", "ignore", "-c", start, *arguments]

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
        home = self.folder / "home"
        return kept | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
            # A plant is idle for longer, and slower.
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            _EVERY_5_SECONDS[0]: _EVERY_5_SECONDS[1],
            **self.variables,
        }

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``stillwatch`` in the plant's folder, in a process of its own as a user does."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def run_here(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``stillwatch`` in this process, which has imported what another would have to."""
        out, err = io.StringIO(), io.StringIO()
        code: str | int | None = 0
        before = dict(os.environ)
        with (
            pytest.MonkeyPatch.context() as patch,
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["stillwatch", *arguments])
            for name, value in self.environment().items():
                patch.setenv(name, value)
            try:
                copy_context().run(main)
            except SystemExit as end:
                code = end.code
            finally:  # what the command has set is for its process
                for name in os.environ.keys() - before.keys():
                    del os.environ[name]
        return subprocess.CompletedProcess(
            arguments, int(code or 0), out.getvalue(), err.getvalue()
        )

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start ``stillwatch`` and do not wait for it."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def retrain(self, *arguments: str) -> dict[str, Any]:
        """Retrain from the image set and return the report."""
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        done = self.run_here("retrain", "--root", "images", "--report", str(report), *arguments)
        assert report.exists(), done.stdout + done.stderr
        content: dict[str, Any] = json.loads(report.read_text())
        return content

    def set_params(self, **sections: Any) -> None:
        """Write ``params.yaml``: tiny settings, with whole sections replaced."""
        text = yaml.safe_dump(TINY | sections)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")


def write_image(path: Path, seed: int, *, spot: bool = False) -> None:
    """A smooth part of random light; ``spot`` paints a bright defect on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    coarse = generator.integers(60, 180, (8, 8, 3), dtype=np.uint8)
    part = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    if spot:
        part.paste((255, 255, 0), (20, 20, 36, 36))
    part.save(path)


def write_category(folder: Path, *, seed: int = 0) -> None:
    """Twelve train normals, four test normals, four anomalies with masks."""
    for number in range(12):
        write_image(folder / "train" / "good" / f"{number:03}.png", seed + number)
    for number in range(4):
        write_image(folder / "test" / "good" / f"{number:03}.png", seed + 100 + number)
        write_image(folder / "test" / "spot" / f"{number:03}.png", seed + 200 + number, spot=True)
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(255, (20, 20, 36, 36))
        path = folder / "ground_truth" / "spot" / f"{number:03}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)


def make_plant(folder: Path) -> Plant:
    """A plant with the category ``bolt``."""
    folder.mkdir(parents=True)
    plant = Plant(folder)
    (folder / "home").mkdir()
    plant.set_params()
    write_category(plant.images / "bolt")
    return plant


def make_workspace_plant(folder: Path) -> Plant:
    """A plant whose image set lies in a git + DVC repository of its own, beside the settings."""
    plant = make_plant(folder)
    plant.images.rename(folder / "data")
    run_git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / ".gitignore").write_text("/.stillwatch/\n/data\n/home/\n/inbox/\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", plant.environment()["DVC_SITE_CACHE_DIR"])
        initialise_dvc(folder)
    write_unscheduled(folder / PREFECT_FILE)
    run_git(folder, "add", "--all")
    run_git(folder, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "-mfirst")
    return plant


def write_unscheduled(file: Path) -> None:
    """Write the deployments without their schedules, so that no test is retrained on a Sunday."""
    content = yaml.safe_load((ROOT / PREFECT_FILE).read_text(encoding="utf-8"))
    for deployment in content["deployments"]:
        deployment.pop("schedules", None)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture(autouse=True)
def no_server_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A server that a command of a test started would stay until ``stillwatch down``."""
    yield
    folder = request.node.funcargs.get("tmp_path")
    if folder is not None:
        stop_servers_below(folder)


@pytest.fixture(scope="session")
def prefect_url(plant: Plant) -> Iterator[str]:
    """One Prefect server for all commands, instead of one for each."""
    settings = Settings(state_dir=plant.state)
    yield ensure_local_server(settings)
    local_server(settings).stop()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Names the state folder of one Prefect server for all tests that run flows themselves."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("prefect"))
    new_prefect_database(settings.state_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*_EVERY_5_SECONDS)
        ensure_local_server(settings)
    yield settings
    local_server(settings).stop()


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Shared by the tests that only look at it or retrain what is already there."""
    plant = make_plant(tmp_path_factory.mktemp("plant") / "line")
    plant.set_params(**SHARED)
    new_prefect_database(plant.state)
    new_store(Settings(state_dir=plant.state))
    return plant


@pytest.fixture(scope="session")
def killed(plant: Plant, prefect_url: str) -> None:
    """A retraining of ``bolt`` was killed during the training of ``stfpm``, which ended with it."""
    arguments = ("--category", "bolt", "--detector", "stfpm")
    with plant.start("retrain", "--root", "images", *arguments) as retraining:
        while not list(plant.state.glob("trainings/*/checkpoint/*.safetensors")):
            assert retraining.poll() is None, retraining.communicate()[0]
            time.sleep(0.01)
        family = psutil.Process(retraining.pid).children(recursive=True)
        trainings = [one for one in family if "stillwatch.training.child" in one.cmdline()]
        assert trainings
        retraining.kill()
    until(lambda: not any(map(runs, trainings)))


@pytest.fixture(scope="session")
def first(plant: Plant, killed: None) -> dict[str, Any]:
    """The report of a retraining of a sound category beside one with a truncated image."""
    write_category(plant.images / "nut", seed=1000)
    broken = plant.images / "nut" / "train" / "good" / "003.png"
    broken.write_bytes(broken.read_bytes()[:200])
    return plant.retrain()
