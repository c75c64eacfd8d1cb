"""Making a plant in a new folder, or in one that has some files already."""

from pathlib import Path

import pytest

from stillwatch.errors import StorageError, WorkspaceError
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.data import plant
from stillwatch.tasks.data.git import run_git
from stillwatch.tasks.data.plant import make_plant
from stillwatch.tasks.data.workspace import open_workspace


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_plant_is_a_committed_workspace_with_settings_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plant"
    make_plant(folder)
    workspace = open_workspace(load_settings(folder / "params.yaml"))
    assert workspace.data == folder / "data"
    assert names(folder) == {
        *(".git", ".gitignore", ".dvc", ".dvcignore"),
        *("params.yaml", "data", "inbox", "to_inspect"),
    }
    for ignored in (".stillwatch", "data", "inbox", "to_inspect"):
        (folder / ignored).mkdir(exist_ok=True)
        (folder / ignored / "x").touch()
    assert run_git(folder, "status", "--porcelain") == b""


def test_the_settings_of_a_plant_are_the_defaults() -> None:
    values = load_settings(Path(plant.__file__).with_name("plant.yaml")).model_dump()
    for name in ("images", "calibration", "training", "retrain", "gate", "categories"):
        assert values[name] == Settings().model_dump()[name]


def test_images_that_are_there_already_stay(tmp_path: Path) -> None:
    image = tmp_path / "data" / "screw" / "train" / "good" / "000.png"
    image.parent.mkdir(parents=True)
    image.touch()
    make_plant(tmp_path)
    assert image.exists()


@pytest.mark.parametrize("taken", ["params.yaml", ".git", "inbox"])
def test_a_folder_with_something_in_the_way_is_refused_and_unchanged(
    tmp_path: Path, taken: str
) -> None:
    (tmp_path / taken).touch()
    with pytest.raises(WorkspaceError, match=rf"has {taken} already\. Name a new or an empty"):
        make_plant(tmp_path)
    assert names(tmp_path) == {taken}


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_stays_of_a_plant_that_could_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    folder = tmp_path / "plant"
    if exists:
        folder.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkspaceError, match="git is not installed"):
        make_plant(folder)
    assert not (names(folder) if exists else folder.exists())


def test_a_file_is_no_folder_for_a_plant(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        make_plant(tmp_path / "file" / "plant")
