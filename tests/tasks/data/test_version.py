import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dvc.repo import Repo
from made_versions import (
    SETTINGS,
    add_remote,
    changed_paths,
    contents,
    git,
    head,
    matches,
    start,
    start_merge,
    versioned,
)
from warned import when_warned

from stillwatch.errors import LayoutError, SettingsError, SplitError, WorkspaceError
from stillwatch.images.layout import scan_category
from stillwatch.images.split import read_split_file, write_split_file
from stillwatch.settings import Settings
from stillwatch.tasks.data.dvc_repository import LOCAL_REMOTE, initialise_dvc
from stillwatch.tasks.data.git import run_git
from stillwatch.tasks.data.history import list_versions
from stillwatch.tasks.data.version import (
    category_digest,
    category_version,
    ensure_categories_exist,
    version,
)
from stillwatch.tasks.data.workspace import Workspace, managed_workspace

MakeCategory = Callable[..., None]
MakeImage = Callable[[Path, int], None]


@pytest.mark.parametrize(
    ("file", "rule", "named"),
    [
        (".dvcignore", "*.png", r"plate/.*\.png: DVC does not see it.*\.dvcignore:\d+:\*\.png"),
        (".dvcignore", "good", r"plate/.*\.png: DVC does not see it.*\.dvcignore:\d+:good"),
        (
            ".gitignore",
            "*.dvc",
            r"data\.dvc: git ignores it.*\.gitignore:\d+:\*\.dvc.*'!data\.dvc'",
        ),
    ],
)
def test_a_rule_that_hides_images_or_versions_is_named(
    workspace: Workspace, plate: Path, file: str, rule: str, named: str
) -> None:
    with (workspace.root / file).open("a") as rules:
        rules.write(f"{rule}\n")
    with pytest.raises(WorkspaceError, match=named):
        versioned(workspace)


@pytest.mark.parametrize(
    ("rule", "hidden"),
    [
        ("ground_truth", r"ground_truth/hole/000/left\.png"),
        ("left.png", r"ground_truth/hole/000/left\.png"),
        ("*_mask.png", r"ground_truth/hole/001_mask\.png"),
        ("region.png", r"region\.png"),
        ("ignore.png", r"ignore\.png"),
    ],
)
def test_a_rule_that_hides_masks_or_a_region_is_named(
    workspace: Workspace, plate: Path, make_image: MakeImage, rule: str, hidden: str
) -> None:
    folder = plate / "ground_truth" / "hole"
    (folder / "000_mask.png").unlink()
    make_image(folder / "000" / "left.png", 1)
    make_image(folder / "000" / "right.png", 2)
    make_image(plate / "test" / "hole" / "001.png", 3)
    make_image(folder / "001_mask.png", 4)
    for name in ("region.png", "ignore.png"):
        make_image(plate / name, 5)
    with (workspace.root / ".dvcignore").open("a") as rules:
        rules.write(f"{rule}\n")
    with pytest.raises(
        WorkspaceError, match=rf"plate/{hidden}: DVC does not .*:\d+:{re.escape(rule)}"
    ):
        versioned(workspace)


@pytest.mark.parametrize("kind", ["link to nothing", "loop", "pipe", "name that is no text"])
def test_what_dvc_cannot_version_stops_no_other_category(
    workspace: Workspace, plate: Path, make_category: MakeCategory, kind: str
) -> None:
    make_category(workspace.data / "cloth", seed=50)
    bad = workspace.data / "cloth" / "train" / "good"
    if kind == "link to nothing":
        (bad / "x.png").symlink_to("gone.png")
    elif kind == "loop":
        (bad / "x.png").symlink_to("x.png")
    elif kind == "pipe":
        os.mkfifo(bad / "x.png")
    else:
        (bad / os.fsdecode(b"\xff.png")).touch()
    data = versioned(workspace)
    assert data.categories["plate"].assignment
    assert not data.categories["cloth"].assignment
    with pytest.raises(LayoutError, match="cloth/train/good"):
        scan_category(data.root / "cloth")


class TestFirstVersion:
    def test_the_version_is_committed_tagged_split_and_pushed(
        self, workspace: Workspace, plate: Path
    ) -> None:
        data = versioned(workspace)
        assert data.changed
        assert data.commit == head(workspace)
        assert data.tag == "data-1"
        assert git(workspace, "rev-parse", "data-1^{commit}") == data.commit
        assert git(workspace, "cat-file", "-t", "data-1") == "tag"
        assert data.root == workspace.data
        assert data.message == "data: plate +15"
        assert git(workspace, "show", "--format=%s", "--no-patch") == data.message
        assert changed_paths(workspace) == ["data.dvc", "data.split.json"]
        assert git(workspace, "status", "--porcelain") == ""
        assert f"md5: {data.dir_hash}" in workspace.dvc_file.read_text(encoding="utf-8")
        pushed = [path for path in workspace.local_remote.rglob("*") if path.is_file()]
        assert len(pushed) == 15 + 1

    def test_categories_have_the_file_list_of_dvc(self, workspace: Workspace, plate: Path) -> None:
        data = versioned(workspace)
        category = data.categories["plate"]
        assert category.digest == category_digest(category.files)
        assert category.files["train/good/000.png"] == md5_of(plate / "train/good/000.png")
        assert len(category.files) == 15
        assert len(category.digest) == 32
        assert sorted(category.assignment.values()).count("calibration") == 4
        assert sorted(category.assignment.values()).count("validation") == 2
        assert len(category.assignment) == 12
        assert read_split_file(workspace.split_file) == {"plate": category.assignment}

    def test_the_configured_git_identity_is_used(
        self, workspace: Workspace, plate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        git(workspace, "config", "user.name", "Ada")
        git(workspace, "config", "user.email", "ada@plant.example")
        versioned(workspace)
        assert git(workspace, "show", "--format=%an <%ae>", "--no-patch") == (
            "Ada <ada@plant.example>"
        )

    def test_without_a_git_identity_stillwatch_is_the_author(
        self, workspace: Workspace, plate: Path
    ) -> None:
        versioned(workspace)
        assert git(workspace, "show", "--format=%an %cn", "--no-patch") == "stillwatch stillwatch"

    def test_a_repository_without_commits_can_be_used(
        self, workspace: Workspace, plate: Path
    ) -> None:
        shutil.rmtree(workspace.root / ".git")
        shutil.rmtree(workspace.root / ".dvc")
        (workspace.root / ".dvcignore").unlink()
        run_git(workspace.root, "init", "--quiet")
        initialise_dvc(workspace.root)
        assert list_versions(workspace) == []
        assert versioned(workspace).tag == "data-1"
        assert changed_paths(workspace) == ["data.dvc", "data.split.json"]

    def test_a_detached_head_can_be_used(self, workspace: Workspace, plate: Path) -> None:
        git(workspace, "checkout", "--quiet", "--detach")
        data = versioned(workspace)
        git(workspace, "checkout", "--quiet", "main")
        assert [found.commit for found in list_versions(workspace)] == [data.commit]

    def test_the_environment_of_a_git_hook_is_ignored(
        self, workspace: Workspace, plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        run_git(other, "init", "--quiet")
        monkeypatch.setenv("GIT_DIR", str(other / ".git"))
        monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
        data = versioned(workspace)
        monkeypatch.delenv("GIT_DIR")
        monkeypatch.delenv("GIT_INDEX_FILE")
        assert head(workspace) == data.commit

    def test_the_users_hooks_are_not_run(self, workspace: Workspace, plate: Path) -> None:
        hook = workspace.root / ".git" / "hooks" / "pre-commit"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        hook.chmod(0o755)
        assert versioned(workspace).changed

    def test_nothing_is_printed(
        self, workspace: Workspace, plate: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        versioned(workspace)
        versioned(workspace)
        assert capfd.readouterr() == ("", "")


class TestUnchanged:
    def test_an_unchanged_image_set_gives_the_same_version(
        self, workspace: Workspace, plate: Path
    ) -> None:
        first = versioned(workspace)
        (workspace.root / "README").write_text("changed\n", encoding="utf-8")
        git(workspace, "commit", "--quiet", "--all", "-mlater")
        later = head(workspace)
        assert versioned(workspace) == replace(first, changed=False)
        assert head(workspace) == later
        assert git(workspace, "tag") == "data-1"

    def test_a_changed_modification_time_is_no_change(
        self, workspace: Workspace, plate: Path
    ) -> None:
        first = versioned(workspace)
        for path in plate.rglob("*.png"):
            path.touch()
        assert versioned(workspace) == replace(first, changed=False)

    def test_an_unchanged_image_set_can_be_versioned_during_a_merge(
        self, workspace: Workspace, plate: Path
    ) -> None:
        first = versioned(workspace)
        start_merge(workspace)
        assert versioned(workspace) == replace(first, changed=False)

    def test_a_deleted_tag_is_not_created_again(self, workspace: Workspace, plate: Path) -> None:
        first = versioned(workspace)
        git(workspace, "tag", "--delete", "data-1")
        assert versioned(workspace) == replace(first, tag=None, changed=False)

    def test_a_fresh_clone_with_the_same_images_only_fills_cache_and_remote(
        self, workspace: Workspace, plate: Path, tmp_path: Path
    ) -> None:
        first = versioned(workspace)
        run_git(tmp_path, "clone", "--quiet", str(workspace.root), "clone")
        clone = replace(workspace, root=tmp_path / "clone", local_remote=tmp_path / "other-remote")
        shutil.copytree(workspace.data, clone.data)
        assert matches(clone)
        again = versioned(clone)
        assert again == replace(first, root=clone.data, changed=False, remote=again.remote)
        assert again.remote.settings["url"] == str(clone.local_remote)
        assert git(clone, "status", "--porcelain") == ""
        assert len([path for path in clone.local_remote.rglob("*") if path.is_file()]) == 16
        (clone.data / "plate" / "train" / "good" / "000.png").unlink()
        assert not matches(clone)
        assert git(clone, "status", "--porcelain") == ""

    def test_an_image_set_without_a_committed_split_does_not_match(
        self, workspace: Workspace, plate: Path
    ) -> None:
        assert not matches(workspace)
        versioned(workspace)
        assert matches(workspace)
        git(workspace, "rm", "--quiet", "--force", "data.split.json")
        git(workspace, "commit", "--quiet", "-mno split")
        assert not matches(workspace)
        assert versioned(workspace).message == "data: split file"

    def test_a_deleted_remote_is_filled_again(self, workspace: Workspace, plate: Path) -> None:
        versioned(workspace)
        before = contents(workspace.local_remote)
        shutil.rmtree(workspace.local_remote)
        assert not versioned(workspace).changed
        assert contents(workspace.local_remote) == before


class TestChanged:
    def test_added_changed_and_removed_are_counted(
        self,
        workspace: Workspace,
        plate: Path,
        make_image: MakeImage,
        make_category: MakeCategory,
    ) -> None:
        first = versioned(workspace)
        make_category(workspace.data / "cloth", normals=5, seed=300)
        for number in range(3):
            make_image(plate / "train" / "good" / f"new{number}.png", 500 + number)
        make_image(plate / "train" / "good" / "000.png", 600)
        (plate / "test" / "good" / "000.png").unlink()
        (plate / "test" / "hole" / "000.png").unlink()
        second = versioned(workspace)
        assert second.message == "data: cloth +8, plate +3 ~1 -2"
        assert (second.changed, second.tag) == (True, "data-2")
        body = git(workspace, "show", "--format=%b", "--no-patch").splitlines()
        assert body[:2] == ["cloth: 8 added", "plate: 3 added, 1 changed, 2 removed"]
        assert changed_paths(workspace) == ["data.dvc", "data.split.json"]
        assert second.dir_hash != first.dir_hash

    def test_a_changed_category_keeps_the_digests_of_the_others(
        self, workspace: Workspace, plate: Path, make_category: MakeCategory
    ) -> None:
        first = versioned(workspace)
        make_category(workspace.data / "cloth", seed=300)
        second = versioned(workspace)
        assert second.categories["plate"] == first.categories["plate"]
        (plate / "train" / "good" / "011.png").unlink()
        third = versioned(workspace)
        assert third.categories["cloth"] == second.categories["cloth"]
        assert third.categories["plate"].digest != second.categories["plate"].digest

    def test_the_subject_sums_up_many_categories(
        self, workspace: Workspace, make_category: MakeCategory
    ) -> None:
        for number in range(5):
            make_category(workspace.data / f"c{number}", normals=1, seed=number * 10)
        assert versioned(workspace).message == "data: 5 categories, +20"

    def test_an_assignment_never_changes(
        self, workspace: Workspace, plate: Path, make_image: MakeImage
    ) -> None:
        first = versioned(workspace).categories["plate"].assignment
        (plate / "train" / "good" / "003.png").rename(plate / "train" / "good" / "z.png")
        gone = plate / "train" / "good" / "004.png"
        kept = gone.read_bytes()
        gone.unlink()
        for number in range(20):
            make_image(plate / "train" / "good" / f"new{number}.png", 500 + number)
        second = versioned(workspace).categories["plate"].assignment
        assert second.items() >= {(m, p) for m, p in first.items() if m in second}
        assert len(second) == 11 + 20
        gone.write_bytes(kept)
        third = versioned(workspace).categories["plate"].assignment
        assert third.items() >= first.items()
        assert third.items() >= second.items()

    def test_other_staged_changes_stay_staged(
        self, workspace: Workspace, plate: Path, make_image: MakeImage
    ) -> None:
        for seed, staged in ((700, "first.py"), (701, "second.py")):
            (workspace.root / staged).write_text("work in progress\n", encoding="utf-8")
            (workspace.root / "README").write_text(staged, encoding="utf-8")
            git(workspace, "add", staged, "README")
            (workspace.root / "README").write_text("not staged", encoding="utf-8")
            make_image(plate / "train" / "good" / f"{seed}.png", seed)
            versioned(workspace)
            assert set(changed_paths(workspace)) == {"data.dvc", "data.split.json"}
            status = git(workspace, "status", "--porcelain").splitlines()
            assert f"A  {staged}" in status
            assert git(workspace, "show", ":README") == staged

    @pytest.mark.parametrize("operation", ["merge", "cherry-pick", "rebase", "revert", "bisect"])
    def test_nothing_is_committed_during(
        self, workspace: Workspace, plate: Path, make_image: MakeImage, operation: str
    ) -> None:
        versioned(workspace)
        start(operation, workspace)
        before = head(workspace), git(workspace, "status", "--porcelain")
        make_image(plate / "train" / "good" / "new.png", 500)
        with pytest.raises(WorkspaceError, match=f"a git {operation} is in progress"):
            versioned(workspace)
        assert (head(workspace), git(workspace, "status", "--porcelain")) == before

    def test_a_hand_edited_split_file_is_refused(self, workspace: Workspace, plate: Path) -> None:
        assignment = versioned(workspace).categories["plate"].assignment
        moved = next(md5 for md5, part in assignment.items() if part == "calibration")
        write_split_file(workspace.split_file, {"plate": {**assignment, moved: "train"}})
        with pytest.raises(SplitError, match=r"from calibration to train.*git checkout"):
            versioned(workspace)
        workspace.split_file.unlink()
        assert not versioned(workspace).changed
        assert read_split_file(workspace.split_file) == {"plate": assignment}

    def test_a_refused_commit_is_completed_by_the_next_run(
        self, workspace: Workspace, plate: Path
    ) -> None:
        before = head(workspace)
        lock = workspace.root / ".git" / "index.lock"
        lock.touch()
        with pytest.raises(WorkspaceError, match=r"index\.lock"):
            versioned(workspace)
        assert head(workspace) == before
        lock.unlink()
        data = versioned(workspace)
        assert (data.changed, data.tag, data.message) == (True, "data-1", "data: plate +15")
        assert git(workspace, "status", "--porcelain") == ""

    def test_a_lost_previous_file_list_is_mentioned(
        self, workspace: Workspace, plate: Path, make_image: MakeImage
    ) -> None:
        versioned(workspace)
        shutil.rmtree(workspace.root / ".dvc" / "cache")
        shutil.rmtree(workspace.local_remote)
        make_image(plate / "train" / "good" / "new.png", 500)
        assert versioned(workspace).message == "data: plate 16 files"

    def test_a_damaged_category_does_not_stop_the_others(
        self, workspace: Workspace, plate: Path
    ) -> None:
        (workspace.data / "empty" / "train" / "good").mkdir(parents=True)
        data = versioned(workspace)
        assert data.categories["empty"].files == {}
        assert data.categories["empty"].assignment == {}
        assert len(data.categories["plate"].assignment) == 12

    def test_images_committed_to_git_are_named(self, workspace: Workspace, plate: Path) -> None:
        git(workspace, "add", "data")
        git(workspace, "commit", "--quiet", "-mdata")
        before = head(workspace)
        with pytest.raises(WorkspaceError, match="is already tracked by SCM"):
            versioned(workspace)
        assert head(workspace) == before

    def test_a_missing_image_set_is_reported(self, workspace: Workspace) -> None:
        with pytest.raises(WorkspaceError, match=r"no images\. Add some with 'stillwatch add"):
            versioned(workspace)
        workspace.data.mkdir()
        with pytest.raises(WorkspaceError, match=r"no images\. Add some with 'stillwatch add"):
            versioned(workspace)
        (workspace.data / "plate").mkdir()
        with pytest.raises(LayoutError, match="no category found"):
            versioned(workspace)


class TestRemote:
    def test_an_unknown_remote_is_reported_and_nothing_changes(
        self, workspace: Workspace, plate: Path, tmp_path: Path
    ) -> None:
        before = head(workspace)
        lost = replace(workspace, remote="nas")
        with pytest.raises(WorkspaceError, match=r"'nas' does not exist \(known: none\)"):
            versioned(lost)
        assert head(workspace) == before
        assert not workspace.dvc_file.exists()
        assert not workspace.split_file.exists()
        add_remote(workspace, "nas", tmp_path / "nas")
        assert versioned(lost).changed
        assert len([path for path in (tmp_path / "nas").rglob("*") if path.is_file()]) == 16
        assert not workspace.local_remote.exists()

    def test_a_default_remote_that_cannot_be_written_is_completed_later(
        self, workspace: Workspace, plate: Path, make_image: MakeImage, tmp_path: Path
    ) -> None:
        versioned(workspace)
        before = head(workspace), workspace.dvc_file.read_bytes()
        (tmp_path / "nas").touch()
        add_remote(workspace, "nas", tmp_path / "nas" / "dvc", default=True)
        git(workspace, "commit", "--quiet", "--all", "-mremote")
        before = head(workspace), workspace.dvc_file.read_bytes()
        make_image(plate / "train" / "good" / "new.png", 500)
        with pytest.raises(WorkspaceError, match=r"remote 'nas'.*Nothing was committed"):
            versioned(workspace)
        assert (head(workspace), workspace.dvc_file.read_bytes()) == before
        (tmp_path / "nas").unlink()
        assert versioned(workspace).message == "data: plate +1"
        assert (tmp_path / "nas" / "dvc").is_dir()

    def test_the_local_remote_is_usable_by_name_and_shadows_no_default(
        self, workspace: Workspace, plate: Path, make_image: MakeImage, tmp_path: Path
    ) -> None:
        versioned(workspace)
        repo = Repo(str(workspace.root))
        assert LOCAL_REMOTE in repo.config["remote"]
        assert repo.config["core"].get("remote") is None
        repo.close()
        add_remote(workspace, "nas", tmp_path / "nas", default=True)
        make_image(plate / "train" / "good" / "new.png", 500)
        versioned(workspace)
        assert (tmp_path / "nas").is_dir()


class TestAtOnce:
    def test_two_processes_make_one_version(self, workspace: Workspace, plate: Path) -> None:
        program = f"""
from pathlib import Path
from stillwatch.settings import Settings
from stillwatch.tasks.data.version import version_image_set
from stillwatch.tasks.data.workspace import Workspace
workspace = Workspace(
    Path({str(workspace.root)!r}), "data", None, Path({str(workspace.local_remote)!r})
)
settings = Settings.model_validate_json({SETTINGS.model_dump_json()!r})
print("imported", flush=True)
input()
data = version_image_set(workspace, settings)
print(data.changed, data.tag, data.commit)
"""
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == "imported\n"
            other.stdin.write("\n")
            other.stdin.flush()
            mine = versioned(workspace)
            theirs = other.communicate()[0].split()
        assert other.returncode == 0
        assert sorted([[str(mine.changed), mine.tag, mine.commit], theirs]) == [
            ["False", "data-1", head(workspace)],
            ["True", "data-1", head(workspace)],
        ]

    def test_a_running_dvc_command_is_waited_for(self, workspace: Workspace, plate: Path) -> None:
        repo = Repo(str(workspace.root))
        repo.lock.lock()
        with when_warned(repo.lock.unlock) as said:
            assert versioned(workspace).changed
        repo.close()
        assert said == [f"waiting for a dvc command that runs in {workspace.root} ..."]


def test_the_prefect_task_imports_and_versions(tmp_path: Path, make_category: MakeCategory) -> None:
    root = tmp_path / "source"
    make_category(root / "plate")
    make_category(root / "cloth", seed=300)
    managed = managed_workspace(tmp_path / "state", root)
    data = version.fn(managed, SETTINGS, root=root, categories=["cloth"])
    assert version.name == "version"
    assert list(data.categories) == ["cloth"]


class TestSettingsOfCategories:
    def test_each_category_is_split_by_its_own_settings(
        self, workspace: Workspace, make_category: MakeCategory
    ) -> None:
        make_category(workspace.data / "plate")
        make_category(workspace.data / "cloth", seed=500)
        own = {"cloth": {"split": {"validation_share": 0.3}, "calibration": {"alpha_reject": 0.15}}}
        settings = Settings.model_validate(SETTINGS.model_dump() | {"categories": own})
        counts = {
            name: Counter(category.assignment.values())
            for name, category in versioned(workspace, settings).categories.items()
        }
        assert counts == {
            "plate": {"calibration": 4, "validation": 2, "train": 6},
            "cloth": {"calibration": 6, "validation": 4, "train": 2},
        }

    def test_a_category_that_the_image_set_lacks_is_refused(
        self, workspace: Workspace, plate: Path
    ) -> None:
        right, wrong = ({"categories": {name: {}}} for name in ("plate", "plat"))
        ensure_categories_exist(Settings.model_validate(right), workspace.data)
        with pytest.raises(SettingsError, match=r"'plat' \(did you mean 'plate'\?\) of .*/data"):
            ensure_categories_exist(Settings.model_validate(wrong), workspace.data)


def test_images_to_train_on_and_other_files_have_digests_of_their_own(
    workspace: Workspace, plate: Path, make_image: Callable[[Path, int], None]
) -> None:
    first = versioned(workspace).categories["plate"]
    make_image(plate / "test" / "good" / "001.png", 2007)
    tested = versioned(workspace).categories["plate"]
    assert tested.training_digest == first.training_digest
    assert tested.test_digest != first.test_digest
    make_image(plate / "train" / "good" / "012.png", 2008)
    trained = versioned(workspace).categories["plate"]
    assert trained.training_digest != tested.training_digest
    assert trained.test_digest == tested.test_digest


def test_another_part_of_an_image_is_another_training(workspace: Workspace, plate: Path) -> None:
    first = versioned(workspace).categories["plate"]
    changed = dict.fromkeys(first.assignment, "train")
    normals = {path: md5 for path, md5 in first.files.items() if path.startswith("train/")}
    moved = category_version("plate", first.files, normals, changed)
    assert moved.training_digest != first.training_digest
    assert moved.test_digest == first.test_digest


def md5_of(path: Path) -> str:
    done = subprocess.run(["md5sum", str(path)], capture_output=True, text=True, check=True)
    return done.stdout.split()[0]
