"""Real git and DVC repositories with tiny images, untouched by the machine's own configuration."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillwatch.settings import Settings, WorkspaceSettings
from stillwatch.tasks.data.dvc_repository import initialise_dvc
from stillwatch.tasks.data.git import run_git
from stillwatch.tasks.data.workspace import Workspace, open_workspace

MakeCategory = Callable[..., None]


@pytest.fixture(autouse=True)
def own_configuration(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("configuration")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(home / "dvc-site"))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(home / "dvc-global"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL", "DIR"):
        monkeypatch.delenv(f"GIT_{name}", raising=False)
    monkeypatch.delenv("EMAIL", raising=False)


@pytest.fixture
def make_image() -> Callable[[Path, int], None]:
    def make(path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    return make


@pytest.fixture
def make_category(make_image: Callable[[Path, int], None]) -> MakeCategory:
    """Write a category: ``normals`` train images, one test normal, one anomaly with its mask."""

    def make(folder: Path, *, normals: int = 12, seed: int = 0) -> None:
        for number in range(normals):
            make_image(folder / "train" / "good" / f"{number:03}.png", seed + number)
        make_image(folder / "test" / "good" / "000.png", seed + 1000)
        make_image(folder / "test" / "hole" / "000.png", seed + 1001)
        mask = folder / "ground_truth" / "hole" / "000_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(mask)

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        workspace=WorkspaceSettings(path=tmp_path / "workspace"),
    )


@pytest.fixture(scope="session")
def empty_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "workspace"
    root.mkdir()
    run_git(root, "init", "--quiet", "--initial-branch=main")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root.parent / "dvc-site"))
        initialise_dvc(root)
    (root / "README").write_text("a person's file\n", encoding="utf-8")
    run_git(root, "add", "--all")
    run_git(root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "-mfirst")
    return root


@pytest.fixture
def workspace(settings: Settings, empty_workspace: Path) -> Workspace:
    """A person's git + DVC repository: one commit, no image set, no remote, no identity."""
    shutil.copytree(empty_workspace, settings.workspace.path)
    return open_workspace(settings)


@pytest.fixture
def plate(workspace: Workspace, make_category: MakeCategory) -> Path:
    """The folder of the workspace's only category: 15 images, not yet versioned."""
    folder = workspace.data / "plate"
    make_category(folder)
    return folder
