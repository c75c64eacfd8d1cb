import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from warned import when_warned

from stillwatch.errors import ImageError, LayoutError, StorageError, WorkspaceError
from stillwatch.flows.image_sets import chosen_categories
from stillwatch.settings import Settings, WorkspaceSettings
from stillwatch.tasks.data import importing
from stillwatch.tasks.data.git import run_git
from stillwatch.tasks.data.importing import import_image_set
from stillwatch.tasks.data.version import import_and_version, version_image_set
from stillwatch.tasks.data.workspace import (
    Workspace,
    find_workspace,
    managed_workspace,
    one_writer,
    open_workspace,
    writing,
)

MakeCategory = Callable[..., None]
MakeImage = Callable[[Path, int], None]


def settings_at(path: Path, state: Path, image_set: str = "data") -> Settings:
    return Settings(state_dir=state, workspace=WorkspaceSettings(path=path, image_set=image_set))


def tree(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Path -> content, time and permissions of every file."""
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes(),
            path.stat().st_mtime_ns,
            path.stat().st_mode,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path: content for path, (content, _, _) in tree(folder).items()}


def inodes(folder: Path) -> dict[str, int]:
    return {path: (folder / path).stat().st_ino for path in contents(folder)}


GLOBAL_SETTINGS = {
    "signatures": "[commit]\ngpgsign = true\n[tag]\ngpgsign = true\n[gpg]\nprogram = /bin/false\n",
    "hooks": "[core]\nhooksPath = {folder}\n",
    "line ends": "[core]\nautocrlf = true\nsafecrlf = true\n",
    "ignored files": "[core]\nexcludesFile = {folder}/ignored\n",
}


@pytest.mark.parametrize("kind", GLOBAL_SETTINGS)
def test_global_settings_of_git_do_not_touch_a_managed_workspace(
    tmp_path: Path, make_category: MakeCategory, kind: str
) -> None:
    folder = tmp_path / "global"
    folder.mkdir()
    for hook in ("pre-commit", "prepare-commit-msg", "post-commit", "reference-transaction"):
        (folder / hook).write_text("#!/bin/sh\nexit 1\n")
        (folder / hook).chmod(0o755)
    (folder / "ignored").write_text(".*\n*.json\n*.dvc\ndata\n")
    settings = GLOBAL_SETTINGS[kind].format(folder=folder)
    Path(os.environ["GIT_CONFIG_GLOBAL"]).write_text(settings)
    make_category(tmp_path / "set" / "bolt")
    workspace = managed_workspace(tmp_path / "state", tmp_path / "set")
    import_image_set(tmp_path / "set", workspace, None)
    version = version_image_set(workspace, Settings(state_dir=tmp_path / "state"))
    assert version.tag == "data-1"
    assert len(version.categories["bolt"].files) == 15


def test_a_workspace_names_its_files(workspace: Workspace) -> None:
    assert workspace.data == workspace.root / "data"
    assert workspace.dvc_file == workspace.root / "data.dvc"
    assert workspace.split_file == workspace.root / "data.split.json"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"nowhere: no such folder.*workspace\.path"):
        open_workspace(settings_at(tmp_path / "nowhere", tmp_path / "state"))


def test_a_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"not a git work tree.*git init"):
        open_workspace(settings_at(tmp_path, tmp_path / "state"))


def test_a_bare_repository_is_refused(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "--quiet", "--bare")
    with pytest.raises(WorkspaceError, match="bare repository"):
        open_workspace(settings_at(tmp_path, tmp_path / "state"))


def test_a_repository_without_dvc_is_refused_even_inside_one_with_it(
    workspace: Workspace, tmp_path: Path
) -> None:
    inner = workspace.root / "inner"
    inner.mkdir()
    run_git(inner, "init", "--quiet")
    with pytest.raises(WorkspaceError, match=r"inner: not a DVC repository.*dvc init"):
        open_workspace(settings_at(inner, tmp_path / "state"))


def test_a_missing_git_is_reported(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(WorkspaceError, match="git is not installed"), writing(workspace):
        pass


@pytest.mark.parametrize("name", ["../data", "a/b", "", ".hidden", "/data"])
def test_the_image_set_must_be_directly_in_the_workspace(
    workspace: Workspace, tmp_path: Path, name: str
) -> None:
    with pytest.raises(WorkspaceError, match=r"workspace\.image_set"):
        open_workspace(settings_at(workspace.root, tmp_path / "state", name))


def test_the_image_set_of_a_workspace_is_recognised(
    workspace: Workspace, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = settings.model_copy(
        update={"workspace": WorkspaceSettings(path=tmp_path / "another", remote="s3")}
    )
    assert find_workspace(workspace.data, settings) == workspace
    assert find_workspace(workspace.data, elsewhere) is None
    workspace.dvc_file.touch()
    assert find_workspace(workspace.data, elsewhere) == workspace
    assert find_workspace(tmp_path, settings) is None


def test_a_managed_workspace_is_created_once_per_root(tmp_path: Path) -> None:
    state, roots = tmp_path / "state", [tmp_path / "a" / "Line 3", tmp_path / "b" / "Line 3"]
    for root in roots:
        root.mkdir(parents=True)
    first, second = (managed_workspace(state, root) for root in roots)
    assert first.root.parent == state / "workspaces"
    assert first.root.name.startswith("line-3-")
    assert first.root != second.root
    head = run_git(first.root, "rev-parse", "HEAD")
    assert managed_workspace(state, tmp_path / "b" / ".." / "a" / "Line 3") == first
    assert run_git(first.root, "rev-parse", "HEAD") == head
    assert run_git(first.root, "status", "--porcelain") == b""


def test_two_processes_share_one_managed_workspace(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path;"
        "from stillwatch.tasks.data.workspace import managed_workspace;"
        "print(managed_workspace(Path(sys.argv[1]), Path(sys.argv[2])).root)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state"), str(tmp_path)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    folder = Path(outputs[0][0].strip())
    assert run_git(folder, "rev-list", "--count", "HEAD").strip() == b"1"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_another_folder_with_the_workspaces_name_is_not_touched(tmp_path: Path) -> None:
    folder = managed_workspace(tmp_path / "state", tmp_path).root
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    (folder / "precious").touch()
    with pytest.raises(WorkspaceError, match="is not the workspace that stillwatch created"):
        managed_workspace(tmp_path / "state", tmp_path)
    assert (folder / "precious").exists()


def test_a_read_only_state_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(StorageError, match="state"):
        managed_workspace(tmp_path / "state", tmp_path)


def test_a_second_writer_waits_with_a_message(workspace: Workspace) -> None:
    with ExitStack() as first:
        first.enter_context(one_writer(workspace))
        with when_warned(first.close) as said, one_writer(workspace):
            pass
    assert said == [f"waiting for another stillwatch that writes to {workspace.root} ..."]


def test_the_image_set_is_ignored_without_touching_gitignore(workspace: Workspace) -> None:
    workspace.data.mkdir()
    (workspace.data / "x").touch()
    for _ in range(2):
        with writing(workspace):
            pass
    assert run_git(workspace.root, "status", "--porcelain") == b""
    excluded = (workspace.root / ".git" / "info" / "exclude").read_text(encoding="utf-8")
    assert excluded.splitlines().count("/data") == 1


class TestImport:
    @pytest.fixture
    def root(self, tmp_path: Path, make_category: MakeCategory) -> Path:
        root = tmp_path / "source"
        make_category(root / "plate", normals=3)
        make_category(root / "cloth", normals=3, seed=50)
        return root

    def test_the_workspace_equals_the_source(self, root: Path, workspace: Workspace) -> None:
        assert import_image_set(root, workspace, None) == {}
        assert contents(workspace.data) == contents(root)
        before = inodes(workspace.data)
        import_image_set(root, workspace, None)
        assert inodes(workspace.data) == before, "equal files are not copied again"

    def test_the_source_is_only_read(self, root: Path, workspace: Workspace) -> None:
        before = tree(root)
        import_image_set(root, workspace, None)
        assert tree(root) == before

    def test_changed_and_removed_files_are_updated(
        self, root: Path, workspace: Workspace, make_image: MakeImage
    ) -> None:
        import_image_set(root, workspace, None)
        make_image(root / "plate" / "train" / "good" / "new.png", 77)
        (root / "plate" / "train" / "good" / "001.png").unlink()
        replacement = root / "replacement.png"
        make_image(replacement, 78)
        replacement.replace(root / "plate" / "train" / "good" / "002.png")
        for file in sorted((root / "plate" / "test" / "hole").iterdir()):
            file.unlink()
        import_image_set(root, workspace, None)
        assert contents(workspace.data) == contents(root)
        assert not (workspace.data / "plate" / "test" / "hole").exists()

    def test_a_category_that_was_renamed_is_there_once(
        self, root: Path, workspace: Workspace
    ) -> None:
        import_image_set(root, workspace, None)
        (root / "cloth").rename(root / "felt")
        import_image_set(root, workspace, None)
        assert contents(workspace.data) == contents(root)
        assert not (workspace.data / "cloth").exists()

    def test_a_category_whose_train_is_gone_keeps_its_images(
        self, root: Path, workspace: Workspace
    ) -> None:
        import_image_set(root, workspace, None)
        before = contents(workspace.data)
        (root / "cloth" / "train").rename(root / "cloth" / "training")
        import_image_set(root, workspace, None)
        assert contents(workspace.data) == before

    def test_only_the_chosen_categories_change(
        self, root: Path, workspace: Workspace, make_category: MakeCategory
    ) -> None:
        make_category(workspace.data / "cloth", normals=1, seed=90)
        make_category(workspace.data / "gear", normals=1, seed=91)
        before = contents(workspace.data)
        import_image_set(root, workspace, ["plate"])
        after = contents(workspace.data)
        assert {p: c for p, c in after.items() if not p.startswith("plate/")} == before
        assert contents(workspace.data / "plate") == contents(root / "plate")

    def test_unreadable_files_are_imported_and_hidden_ones_are_not(
        self, root: Path, workspace: Workspace
    ) -> None:
        good = root / "plate" / "train" / "good"
        (good / "text.png").write_text("not an image", encoding="utf-8")
        (good / "empty.png").touch()
        (good / ".DS_Store").touch()
        import_image_set(root, workspace, ["plate"])
        imported = {path.name for path in (workspace.data / "plate" / "train" / "good").iterdir()}
        assert {"text.png", "empty.png"} <= imported
        assert ".DS_Store" not in imported

    def test_a_category_without_images_stays_visible(
        self, root: Path, workspace: Workspace
    ) -> None:
        (root / "empty" / "train" / "good").mkdir(parents=True)
        import_image_set(root, workspace, None)
        assert (workspace.data / "empty" / "train").is_dir()

    def test_an_unknown_category_is_reported_with_the_nearest_one(
        self, root: Path, workspace: Workspace
    ) -> None:
        with pytest.raises(LayoutError, match=r"unknown category 'plat' \(did you mean 'plate'"):
            import_image_set(root, workspace, ["plat"])

    def test_a_category_name_cannot_leave_the_root(self, root: Path, workspace: Workspace) -> None:
        with pytest.raises(LayoutError, match=r"'\.\./source/plate'.*a-z"):
            import_image_set(root, workspace, ["../source/plate"])

    def test_a_link_that_leaves_the_root_is_refused(
        self, root: Path, workspace: Workspace, tmp_path: Path
    ) -> None:
        (tmp_path / "secret.png").touch()
        (root / "plate" / "train" / "good" / "x.png").symlink_to(tmp_path / "secret.png")
        refused = import_image_set(root, workspace, None)
        assert "x.png: leaves the image set by a symbolic link" in refused["plate"]
        assert not (workspace.data / "plate").exists()
        assert (workspace.data / "cloth" / "train").is_dir(), "the other category is sound"

    def test_a_category_that_is_put_aside_stays_known_with_its_reason(
        self, root: Path, workspace: Workspace, settings: Settings, tmp_path: Path
    ) -> None:
        (root / "plate" / "test" / "away").symlink_to(tmp_path)
        data = import_and_version(workspace, settings, root=root)
        assert set(data.categories) == {"cloth"}
        assert "plate/test/away: leaves the image set" in data.refused["plate"]
        assert chosen_categories(data, None) == ["cloth", "plate"]

    def test_a_link_inside_the_source_imports_its_target(
        self, root: Path, workspace: Workspace
    ) -> None:
        link = root / "plate" / "train" / "good" / "x.png"
        link.symlink_to(root / "cloth" / "train" / "good" / "000.png")
        import_image_set(root, workspace, None)
        imported = workspace.data / "plate" / "train" / "good" / "x.png"
        assert not imported.is_symlink()
        assert imported.read_bytes() == link.read_bytes()

    def test_a_link_to_a_folder_above_it_is_refused(self, root: Path, workspace: Workspace) -> None:
        (root / "plate" / "test" / "loop").symlink_to(root / "plate")
        refused = import_image_set(root, workspace, None)
        assert "a folder that it lies in" in refused["plate"]

    def test_a_source_inside_the_workspace_and_the_reverse_are_refused(
        self, workspace: Workspace, make_category: MakeCategory
    ) -> None:
        make_category(workspace.data / "plate", normals=1)
        with pytest.raises(WorkspaceError, match="one lies in the other"):
            import_image_set(workspace.data, workspace, None)
        around = workspace.root.parent
        (workspace.root / "train").mkdir()
        with pytest.raises(WorkspaceError, match="one lies in the other"):
            import_image_set(around, workspace, None)

    def test_files_are_copies_with_the_sources_modification_time(
        self, root: Path, workspace: Workspace
    ) -> None:
        import_image_set(root, workspace, None)
        assert tree(workspace.data) == tree(root)
        before = tree(root)
        (workspace.data / "plate/train/good/000.png").write_bytes(b"edited in the workspace")
        assert tree(root) == before
        import_image_set(root, workspace, None)
        assert tree(workspace.data) == tree(root)

    def test_a_full_disk_leaves_no_partial_file(
        self, root: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run_out(source: Path, target: Path) -> None:
            target.write_bytes(source.read_bytes()[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

        monkeypatch.setattr(importing.shutil, "copy2", run_out)
        with pytest.raises(StorageError, match="no space left"):
            import_image_set(root, workspace, None)
        assert contents(workspace.data) == {}
        assert not list((workspace.root / ".dvc" / "tmp").glob("import-*"))

    def test_an_unreadable_file_is_named(
        self, root: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def deny(source: Path, *_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(source))

        monkeypatch.setattr(importing.shutil, "copy2", deny)
        with pytest.raises(ImageError, match=r"000_mask\.png: cannot be read"):
            import_image_set(root, workspace, ["plate"])
