"""What the tests of versioning do with a workspace."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from stillwatch.errors import WorkspaceError
from stillwatch.settings import CalibrationSettings, Settings
from stillwatch.tasks.data.git import FALLBACK_IDENTITY, run_git
from stillwatch.tasks.data.version import DataVersion, matches_tracked, version_image_set
from stillwatch.tasks.data.workspace import Workspace

SETTINGS = Settings(calibration=CalibrationSettings(alpha_reject=0.2, alpha_review=0.2))
"""Four calibration images."""


def versioned(workspace: Workspace, settings: Settings = SETTINGS) -> DataVersion:
    return version_image_set(workspace, settings)


def matches(workspace: Workspace) -> bool:
    return matches_tracked(workspace, SETTINGS)


def git(workspace: Workspace, *arguments: str) -> str:
    return run_git(workspace.root, *FALLBACK_IDENTITY, *arguments).decode().strip()


def head(workspace: Workspace) -> str:
    return git(workspace, "rev-parse", "HEAD")


def changed_paths(workspace: Workspace) -> list[str]:
    return git(workspace, "show", "--name-only", "--format=", "HEAD").splitlines()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def add_remote(workspace: Workspace, name: str, url: Path, *, default: bool = False) -> None:
    repo = Repo(str(workspace.root))
    with repo.config.edit("repo") as config:
        config["remote"][name] = {"url": str(url)}
        if default:
            config["core"]["remote"] = name
    repo.close()


def start(operation: str, workspace: Workspace) -> None:
    if operation == "merge":
        start_merge(workspace)
        return
    if operation == "bisect":
        git(workspace, "bisect", "start")
        return
    conflicting_branch(workspace)
    target = {"cherry-pick": "other", "rebase": "other", "revert": "HEAD~1"}[operation]
    with pytest.raises(WorkspaceError):
        git(workspace, operation, target)


def start_merge(workspace: Workspace) -> None:
    conflicting_branch(workspace)
    with pytest.raises(WorkspaceError):
        git(workspace, "merge", "other")


def conflicting_branch(workspace: Workspace) -> None:
    """Branch ``other`` and two commits on this one that all change the same line."""
    git(workspace, "branch", "other")
    for text in ("ours 1\n", "ours 2\n"):
        (workspace.root / "README").write_text(text, encoding="utf-8")
        git(workspace, "commit", "--quiet", "--all", "-mours")
    git(workspace, "checkout", "--quiet", "other")
    (workspace.root / "README").write_text("theirs\n", encoding="utf-8")
    git(workspace, "commit", "--quiet", "--all", "-mtheirs")
    git(workspace, "checkout", "--quiet", "main")
