"""List and restore old versions."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dvc.repo import Repo
from made_versions import (
    contents,
    git,
    head,
    versioned,
)

from stillwatch.errors import WorkspaceError
from stillwatch.images.split import read_split_file, write_split_file
from stillwatch.tasks.data.adding import add_files
from stillwatch.tasks.data.checkout import checkout_version
from stillwatch.tasks.data.dvc_repository import LOCAL_REMOTE
from stillwatch.tasks.data.history import list_versions
from stillwatch.tasks.data.importing import import_image_set
from stillwatch.tasks.data.version import DataVersion
from stillwatch.tasks.data.workspace import Workspace, managed_workspace

MakeCategory = Callable[..., None]
MakeImage = Callable[[Path, int], None]


@pytest.fixture
def two(
    workspace: Workspace, plate: Path, make_image: MakeImage
) -> tuple[DataVersion, DataVersion]:
    first = versioned(workspace)
    make_image(plate / "train" / "good" / "new.png", 500)
    make_image(plate / "train" / "good" / "000.png", 501)
    return first, versioned(workspace)


def test_versions_are_listed_newest_first(
    workspace: Workspace, two: tuple[DataVersion, DataVersion]
) -> None:
    first, second = two
    listed = list_versions(workspace)
    assert [(v.tag, v.commit, v.dir_hash, v.file_count, v.message) for v in listed] == [
        ("data-2", second.commit, second.dir_hash, 16, "data: plate +1 ~1"),
        ("data-1", first.commit, first.dir_hash, 15, "data: plate +15"),
    ]
    assert all(v.date.startswith("20") for v in listed)


def test_an_old_version_and_then_the_latest_are_restored(
    workspace: Workspace, two: tuple[DataVersion, DataVersion]
) -> None:
    first, second = two
    latest = contents(workspace.root / "data"), workspace.split_file.read_bytes()
    before = head(workspace)
    assert checkout_version(workspace, "data-1").commit == first.commit
    assert not (workspace.data / "plate" / "train" / "good" / "new.png").exists()
    assert versioned(workspace) == replace(first, changed=False)
    assert checkout_version(workspace, second.commit[:12]).tag == "data-2"
    assert (contents(workspace.root / "data"), workspace.split_file.read_bytes()) == latest
    assert versioned(workspace) == replace(second, changed=False)
    assert head(workspace) == before
    assert git(workspace, "status", "--porcelain") == ""


def test_a_version_made_from_an_old_one_keeps_every_assignment(
    workspace: Workspace,
    two: tuple[DataVersion, DataVersion],
    make_image: MakeImage,
) -> None:
    _, second = two
    checkout_version(workspace, "data-1")
    make_image(workspace.data / "plate" / "train" / "good" / "third.png", 900)
    third = versioned(workspace)
    assert (third.tag, third.changed) == ("data-3", True)
    assert third.message == "data: plate +1 ~1 -1"
    kept = read_split_file(workspace.split_file)["plate"]
    assert kept.items() >= second.categories["plate"].assignment.items()


def test_unversioned_images_are_not_lost(
    workspace: Workspace,
    two: tuple[DataVersion, DataVersion],
    make_image: MakeImage,
) -> None:
    make_image(workspace.data / "plate" / "train" / "good" / "precious.png", 900)
    before = contents(workspace.root / "data"), workspace.dvc_file.read_bytes()
    with pytest.raises(WorkspaceError, match=r"files that are in no version.*precious\.png"):
        checkout_version(workspace, "data-1")
    assert (contents(workspace.root / "data"), workspace.dvc_file.read_bytes()) == before


def test_an_unversioned_split_file_is_not_lost(
    workspace: Workspace, two: tuple[DataVersion, DataVersion]
) -> None:
    write_split_file(workspace.split_file, {})
    with pytest.raises(WorkspaceError, match=r"data\.split\.json: has changes"):
        checkout_version(workspace, "data-1")


def test_images_that_dvc_links_to_a_shared_cache_are_read(
    workspace: Workspace, plate: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    repo = Repo(str(workspace.root))
    with repo.config.edit("repo") as config:
        config["cache"] = {"type": "symlink", "dir": str(tmp_path / "shared")}
    repo.close()
    first = versioned(workspace)
    image = plate / "train" / "good" / "000.png"
    before = image.read_bytes()
    make_image(image, 501)
    versioned(workspace)
    checkout_version(workspace, "data-1")
    assert image.is_symlink()
    assert image.read_bytes() == before
    assert versioned(workspace) == replace(first, changed=False)
    add_files({"train/good/000.png": image}, "cloth", workspace)
    assert not (workspace.data / "cloth" / "train" / "good" / "000.png").is_symlink()
    assert versioned(workspace).message == "data: cloth +1, plate ~1"


def test_deleted_images_are_restored(
    workspace: Workspace, two: tuple[DataVersion, DataVersion]
) -> None:
    latest = contents(workspace.root / "data")
    (workspace.data / "plate" / "train" / "good" / "new.png").unlink()
    checkout_version(workspace, "HEAD")
    assert contents(workspace.root / "data") == latest
    shutil.rmtree(workspace.data)
    checkout_version(workspace, "HEAD")
    assert contents(workspace.root / "data") == latest


def test_a_lost_cache_is_fetched_from_the_remote(
    workspace: Workspace, two: tuple[DataVersion, DataVersion]
) -> None:
    latest = contents(workspace.root / "data")
    shutil.rmtree(workspace.root / ".dvc" / "cache")
    checkout_version(workspace, "data-1")
    assert versioned(workspace).tag == "data-1"
    shutil.rmtree(workspace.root / ".dvc" / "cache")
    checkout_version(workspace, "data-2")
    assert contents(workspace.root / "data") == latest


@pytest.mark.parametrize("lost", ["everything", "one file"])
def test_files_missing_in_cache_and_remote_are_reported_before_anything_changes(
    workspace: Workspace, two: tuple[DataVersion, DataVersion], lost: str
) -> None:
    first, second = two
    md5 = first.categories["plate"].files.items() - second.categories["plate"].files.items()
    ((_, only_in_first),) = md5
    before = contents(workspace.root / "data"), workspace.dvc_file.read_bytes()
    for store in (workspace.root / ".dvc" / "cache", workspace.local_remote):
        if lost == "everything":
            shutil.rmtree(store)
        else:
            (store / "files" / "md5" / only_in_first[:2] / only_in_first[2:]).unlink()
    with pytest.raises(WorkspaceError, match=f"neither in DVC's cache nor.*{LOCAL_REMOTE}"):
        checkout_version(workspace, "data-1")
    assert (contents(workspace.root / "data"), workspace.dvc_file.read_bytes()) == before


def test_an_unknown_version_is_reported_with_the_known_ones(
    workspace: Workspace, two: tuple[DataVersion, DataVersion]
) -> None:
    with pytest.raises(WorkspaceError, match=r"'data-7' is no version.*data-2, data-1"):
        checkout_version(workspace, "data-7")
    with pytest.raises(WorkspaceError, match="is no version"):
        checkout_version(workspace, "--all")
    first_commit = git(workspace, "rev-list", "--max-parents=0", "HEAD")
    with pytest.raises(WorkspaceError, match="is no version"):
        checkout_version(workspace, first_commit)


def test_the_imported_source_survives_versioning_checkout_and_edits(
    tmp_path: Path, make_category: MakeCategory, make_image: MakeImage
) -> None:
    root = tmp_path / "source"
    make_category(root / "plate")
    managed = managed_workspace(tmp_path / "state", root)

    def source_now() -> dict[str, tuple[bytes, int, int]]:
        return {
            str(path): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
            for path in root.rglob("*.png")
        }

    import_image_set(root, managed, None)
    versioned(managed)
    replacement = tmp_path / "new.png"
    make_image(replacement, 900)
    replacement.replace(root / "plate" / "train" / "good" / "000.png")
    before = source_now()
    import_image_set(root, managed, None)
    assert versioned(managed).message == "data: plate ~1"
    checkout_version(managed, "data-1")
    (managed.data / "plate" / "train" / "good" / "000.png").write_bytes(b"checked out, not linked")
    assert source_now() == before
