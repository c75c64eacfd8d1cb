"""List the versions of an image set in git, and read one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from stillwatch.errors import WorkspaceError
from stillwatch.images.split import Assignment, parse_split
from stillwatch.tasks.data.dvc_repository import parse_tracked
from stillwatch.tasks.data.git import (
    Commit,
    commits_touching,
    numbered_tags,
    read_committed,
    resolve_commit,
)
from stillwatch.tasks.data.workspace import Workspace

TAG_PREFIX = "data-"
"""Of tags ``data-<n>``, numbered per clone; the hash identifies the data, the tag does not."""


@dataclass(frozen=True)
class RecordedVersion:
    """One committed version of the image set."""

    tag: str | None
    """None: a person made the commit, or the tag was deleted."""
    date: str
    """Date of the commit, ISO 8601."""
    commit: str
    dir_hash: str
    """DVC's, ``<md5>.dir``."""
    file_count: int
    message: str
    """The commit's subject."""
    split_id: str | None
    """git's id of the split file's content."""


def list_versions(workspace: Workspace) -> list[RecordedVersion]:
    """All versions that are reachable from HEAD or a tag ``data-<n>``, newest first.

    Raises:
        WorkspaceError: the workspace is not a usable git repository.
    """
    tags = numbered_tags(workspace.root, TAG_PREFIX)
    revisions = list(tags.values())
    if resolve_commit(workspace.root, "HEAD"):
        revisions.append("HEAD")
    commits = commits_touching(workspace.root, _paths(workspace), revisions)
    return _recorded(workspace, commits, tags)


def version_at(workspace: Workspace, revision: str) -> RecordedVersion | None:
    """The version at a tag, branch or commit; None if there is no such revision or image set."""
    sha = resolve_commit(workspace.root, revision)
    if sha is None:
        return None
    commits = commits_touching(workspace.root, _paths(workspace), [sha], newest=1)
    recorded = _recorded(workspace, commits, numbered_tags(workspace.root, TAG_PREFIX))
    return recorded[0] if recorded else None


def split_at(workspace: Workspace, version: RecordedVersion) -> dict[str, Assignment]:
    """Category -> assignment as committed in ``version``.

    Raises:
        SplitError: the committed file is damaged.
    """
    (blob,) = read_committed(workspace.root, [version.commit], workspace.split_file.name)
    if blob is None:
        return {}
    return parse_split(blob[1], f"{workspace.split_file} in commit {version.commit}")


def files_at(workspace: Workspace, version: RecordedVersion) -> tuple[bytes, bytes | None]:
    """The ``.dvc`` file and the split file as committed in ``version``."""
    (dvc_file,) = read_committed(workspace.root, [version.commit], workspace.dvc_file.name)
    (split_file,) = read_committed(workspace.root, [version.commit], workspace.split_file.name)
    if dvc_file is None:
        raise WorkspaceError(f"{workspace.dvc_file}: is not in commit {version.commit}.")
    return dvc_file[1], split_file[1] if split_file else None


def _paths(workspace: Workspace) -> list[str]:
    return [workspace.dvc_file.name, workspace.split_file.name]


def _recorded(
    workspace: Workspace, commits: Sequence[Commit], tags: dict[str, str]
) -> list[RecordedVersion]:
    ids = [commit.sha for commit in commits]
    dvc_files = read_committed(workspace.root, ids, workspace.dvc_file.name)
    split_files = read_committed(workspace.root, ids, workspace.split_file.name)
    versions = []
    for commit, dvc_file, split_file in zip(commits, dvc_files, split_files, strict=True):
        tracked = parse_tracked(dvc_file[1]) if dvc_file else None
        if tracked is None:
            continue
        versions.append(
            RecordedVersion(
                tag=tags.get(commit.sha),
                date=commit.date,
                commit=commit.sha,
                dir_hash=tracked.dir_hash,
                file_count=tracked.file_count,
                message=commit.subject,
                split_id=split_file[0] if split_file else None,
            )
        )
    return versions
