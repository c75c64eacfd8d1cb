"""Pull one category from the DVC remote on a machine that did not version it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.tasks.conftest import MakeCategory

from stillwatch.errors import WorkspaceError
from stillwatch.images.store import ImageStore
from stillwatch.settings import CalibrationSettings, CheckSettings, ImageSettings, Settings
from stillwatch.tasks.data.dvc_repository import DvcRemote
from stillwatch.tasks.data.examine import ExaminedCategory, examine_category
from stillwatch.tasks.data.pull import category_here
from stillwatch.tasks.data.version import DataVersion, version_image_set
from stillwatch.tasks.data.workspace import Workspace

TINY = {
    "images": ImageSettings(size=32),
    "checks": CheckSettings(min_side=8),
    "calibration": CalibrationSettings(alpha_reject=0.2, alpha_review=0.2),
}


@pytest.fixture
def here(settings: Settings) -> Settings:
    return settings.model_copy(update=TINY)


@pytest.fixture
def there(here: Settings, tmp_path: Path) -> Settings:
    """Settings of a machine with a state folder of its own."""
    return here.model_copy(update={"state_dir": tmp_path / "elsewhere"})


def versioned(workspace: Workspace, here: Settings) -> tuple[ExaminedCategory, DataVersion]:
    """The category plate on this machine, in a version of another host."""
    data = version_image_set(workspace, here)
    category = examine_category(data.categories["plate"], root=data.root, settings=here)
    return category, replace(data, host="another-machine")


def pulled_objects(there: Settings) -> int:
    cache = there.state_dir / "pulled" / ".dvc" / "cache" / "files"
    return sum(path.is_file() for path in cache.rglob("*"))


def test_the_machine_that_versioned_the_images_pulls_nothing(
    workspace: Workspace, plate: Path, here: Settings, there: Settings
) -> None:
    data = version_image_set(workspace, here)
    category = examine_category(data.categories["plate"], root=data.root, settings=here)
    assert category_here(category, data, there) is category
    assert not there.state_dir.exists()


def test_another_machine_pulls_only_the_category_and_only_new_files(
    workspace: Workspace,
    plate: Path,
    make_category: MakeCategory,
    here: Settings,
    there: Settings,
) -> None:
    make_category(workspace.data / "cloth", seed=500)
    category, data = versioned(workspace, here)
    pulled = category_here(category, data, there)
    assert pulled.folder.is_relative_to(there.state_dir)
    files = {path.relative_to(pulled.folder).as_posix() for path in pulled.folder.rglob("*.png")}
    assert files == set(category.version.files)
    assert pulled_objects(there) == len(set(category.version.files.values()))
    ours, theirs = ImageStore.open(category.store), ImageStore.open(pulled.store)
    assert ours.paths == theirs.paths
    assert all(map(np.array_equal, ours.images, theirs.images))

    before = pulled_objects(there)
    make_category(plate, normals=13)
    later, data = versioned(workspace, here)
    assert later.version.digest != category.version.digest
    again = category_here(later, data, there)
    assert (again.folder / "train" / "good" / "012.png").is_file()
    assert pulled_objects(there) == before + 1


def test_a_failed_pull_is_reported_and_leaves_no_files(
    workspace: Workspace, plate: Path, here: Settings, there: Settings, tmp_path: Path
) -> None:
    category, data = versioned(workspace, here)
    empty = DvcRemote("bucket", {"url": str(tmp_path / "empty")})
    with pytest.raises(WorkspaceError, match="on the remote 'bucket'"):
        category_here(category, replace(data, remote=empty), there)
    assert not (there.state_dir / "pulled" / category.version.digest).exists()


def test_a_file_damaged_after_the_pull_is_detected(
    workspace: Workspace, plate: Path, here: Settings, there: Settings
) -> None:
    category, data = versioned(workspace, here)
    pulled = category_here(category, data, there)
    shutil.rmtree(pulled.store)
    file = pulled.folder / "train" / "good" / "000.png"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b"?")
    for _ in ("damaged", "gone"):
        with pytest.raises(WorkspaceError, match="differ from those of the data version"):
            category_here(category, data, there)
        file.unlink(missing_ok=True)
