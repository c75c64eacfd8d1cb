"""Restore an older version of an image set; refuse to lose files that no version has."""

import contextlib
from pathlib import Path

from stillwatch.errors import WorkspaceError
from stillwatch.files import atomic_file
from stillwatch.tasks.data.dvc_repository import DvcRepository, parse_tracked
from stillwatch.tasks.data.git import blob_id
from stillwatch.tasks.data.history import RecordedVersion, files_at, list_versions, version_at
from stillwatch.tasks.data.workspace import Workspace, writing
from stillwatch.text import some_of


def checkout_version(workspace: Workspace, revision: str) -> RecordedVersion:
    """Restore the image set's folder, its ``.dvc`` file and the split file of a version.

    Nothing is committed: HEAD, index and all other files stay unchanged. A training then uses the
    old version; added images give a new version on top of the latest.

    Args:
        revision: a tag (``data-3``), a commit, or ``HEAD`` for the latest.

    Raises:
        WorkspaceError: there is no such version, files that no version has would be lost, or
            neither DVC's cache nor the remote has the old files. Nothing is changed then.
    """
    with writing(workspace) as dvc:
        known = list_versions(workspace)
        wanted = version_at(workspace, revision)
        if wanted is None:
            tags = ", ".join(version.tag for version in known if version.tag)
            raise WorkspaceError(
                f"{workspace.root}: '{revision}' is no version of {workspace.image_set} (known: "
                f"{tags or 'none'}). 'stillwatch data list' shows them all."
            )
        _ensure_split_is_kept(workspace, [wanted, *known])
        _ensure_images_are_kept(workspace, dvc, [wanted, *known])
        dvc.fetch(wanted.dir_hash)
        _exchange(workspace, dvc, *files_at(workspace, wanted))
    return wanted


def _ensure_split_is_kept(workspace: Workspace, known: list[RecordedVersion]) -> None:
    if not workspace.split_file.exists():
        return
    split_id = blob_id(workspace.root, workspace.split_file.name)
    if split_id not in {version.split_id for version in known}:
        raise WorkspaceError(
            f"{workspace.split_file}: has changes that no version has. Version them with "
            "'stillwatch data add', or drop them with 'git checkout HEAD -- "
            f"{workspace.split_file.name}'."
        )


def _ensure_images_are_kept(
    workspace: Workspace, dvc: DvcRepository, known: list[RecordedVersion]
) -> None:
    if not workspace.data.is_dir() or not any(workspace.data.iterdir()):
        return
    now = dvc.scan()
    if now.dir_hash in {version.dir_hash for version in known}:
        # git may know a version whose files DVC has never seen, as in a fresh clone.
        dvc.store(now)
        return
    kept = _kept_contents(workspace, dvc, known[0])
    lost = sorted(path for path, md5 in now.files.items() if md5 not in kept)
    if lost:
        raise WorkspaceError(
            f"{workspace.data}: files that are in no version would be lost ({some_of(lost)}). "
            "Version them with 'stillwatch data add', or move them away."
        )


def _kept_contents(workspace: Workspace, dvc: DvcRepository, wanted: RecordedVersion) -> set[str]:
    """md5 of every file of the wanted, the latest and the checked-out version."""
    head = version_at(workspace, "HEAD")
    checked_out = parse_tracked(_read(workspace.dvc_file) or b"")
    hashes = {state.dir_hash for state in (wanted, head, checked_out) if state}
    lists = [dvc.file_list(dir_hash) for dir_hash in hashes]
    return {md5 for found in lists if found for md5 in found.files.values()}


def _exchange(
    workspace: Workspace, dvc: DvcRepository, dvc_file: bytes, split_file: bytes | None
) -> None:
    before = _read(workspace.dvc_file), _read(workspace.split_file)
    try:
        _write(workspace.dvc_file, dvc_file)
        _write(workspace.split_file, split_file)
        dvc.check_out()
    except BaseException:
        _write(workspace.dvc_file, before[0])
        _write(workspace.split_file, before[1])
        with contextlib.suppress(WorkspaceError):
            dvc.check_out()
        raise


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _write(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
