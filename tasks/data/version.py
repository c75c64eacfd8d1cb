"""Version an image set: DVC stores the images, git the ``.dvc`` file and the split file."""

import hashlib
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.errors import LayoutError, SettingsError, SplitError, WorkspaceError
from stillwatch.images.layout import Category, category_folders, mask_files, scan_category
from stillwatch.images.split import (
    PARTS,
    Assignment,
    assign,
    part_of,
    read_split_file,
    write_split_file,
)
from stillwatch.settings import Settings
from stillwatch.tasks.data.dvc_repository import DvcRemote, DvcRepository, FileList, parse_tracked
from stillwatch.tasks.data.git import (
    blob_id,
    commit_only,
    create_numbered_tag,
    ensure_committable,
    ignoring_rule,
)
from stillwatch.tasks.data.history import (
    TAG_PREFIX,
    RecordedVersion,
    list_versions,
    split_at,
    version_at,
)
from stillwatch.tasks.data.importing import import_image_set
from stillwatch.tasks.data.workspace import Workspace, image_folder, writing
from stillwatch.text import printable, unknown_name

_SIGNS = {"added": "+", "changed": "~", "removed": "-"}
_CATEGORIES_IN_SUBJECT = 4


@dataclass(frozen=True)
class CategoryVersion:
    """One category of a version; two versions with equal digests have equal files."""

    name: str
    digest: str
    """``category_digest`` of ``files``."""
    files: dict[str, str]
    """POSIX path relative to the category's folder -> md5, as in DVC's list."""
    assignment: dict[str, str]
    """md5 -> part, of the train normals of this version."""
    training_digest: str
    """Of the images for training, validation and calibration, with their parts."""
    test_digest: str
    """Of all other files: test and corrected images, masks."""


@dataclass(frozen=True)
class DataVersion:
    """A committed state of the image set."""

    dir_hash: str
    """DVC's hash of the whole image set, ``<md5>.dir``."""
    commit: str
    tag: str | None
    root: Path
    """The image set's folder."""
    categories: dict[str, CategoryVersion]
    message: str
    """The commit's subject, which counts the changed files."""
    changed: bool
    """Whether this call made the commit."""
    host: str
    """The host name of the machine with ``root``."""
    remote: DvcRemote
    """The remote that other machines pull from."""
    refused: dict[str, str] = field(default_factory=dict)
    """Category -> why it could not be imported; ``categories`` may have an older state of it."""

    @property
    def name(self) -> str:
        """The tag, else the first ten digits of the commit."""
        return self.tag or self.commit[:10]


def import_and_version(
    workspace: Workspace,
    settings: Settings,
    *,
    root: Path | None = None,
    categories: list[str] | None = None,
) -> DataVersion:
    """Import ``root``, if given, into the workspace; then version the workspace's image set.

    Raises:
        StillwatchError: as ``import_image_set`` and ``version_image_set``.
    """
    refused = {}
    if root is not None:
        refused = import_image_set(root, workspace, categories)
        if refused and not workspace.data.is_dir():
            raise LayoutError(" ".join(refused.values()))
    return replace(version_image_set(workspace, settings), refused=refused)


version = task(name="version", task_run_name="version", cache_policy=NO_CACHE)(import_and_version)


def version_image_set(workspace: Workspace, settings: Settings) -> DataVersion:
    """Record the image set on disk: DVC cache, remote, ``.dvc`` file, split file, commit, tag.

    If the image set is recorded already (also after ``checkout_version``), the recorded version is
    returned and nothing changes. The order is cache, remote, files, commit: a committed version can
    always be restored, and the next call completes a call that failed.

    Args:
        settings: of all categories; new images are assigned by the sections split and calibration
            of their own category.

    Raises:
        LayoutError: there is no category, or a category's name is not allowed. (Other faults of
            a category are reported by its own scan; none of its images is assigned.)
        SplitError: the split file is damaged, or moves an image that git has assigned.
        StorageError: a disk is full or a folder cannot be written to.
        WorkspaceError: git or DVC failed.
    """
    with writing(workspace) as dvc:
        found = _find_version(workspace, dvc, settings)
        if found.recorded is None:
            ensure_committable(workspace.root)
            _ensure_not_ignored(workspace)
        dvc.store(found.now)
        dvc.push(found.now)
        remote = dvc.remote()
        dvc.track(found.now)
        if read_split_file(workspace.split_file) != found.assignments:
            write_split_file(workspace.split_file, found.assignments)
        message, commit, tag = (
            (found.recorded.message, found.recorded.commit, found.recorded.tag)
            if found.recorded
            else _commit(workspace, _message(dvc, found))
        )
    return DataVersion(
        dir_hash=found.now.dir_hash,
        commit=commit,
        tag=tag,
        root=workspace.data,
        categories={
            name: category_version(
                name, files, found.normals[name], found.assignments.get(name, {})
            )
            for name, files in found.files.items()
        },
        message=message,
        changed=found.recorded is None,
        host=socket.gethostname(),
        remote=remote,
    )


def matches_tracked(workspace: Workspace, settings: Settings) -> bool:
    """Whether the image set is recorded; arguments and errors as of ``version_image_set``."""
    with writing(workspace) as dvc:
        return _find_version(workspace, dvc, settings).recorded is not None


def ensure_categories_exist(settings: Settings, root: Path) -> None:
    """Refuse settings of categories that an image set does not have.

    Call this before the image set is versioned: a misspelt name would leave the images of the
    category to the split of all the others, and an assigned image is never moved.

    Args:
        settings: of all categories.
        root: the image set; a folder that does not exist is refused elsewhere.

    Raises:
        LayoutError: as ``category_folders``.
        SettingsError: ``categories`` names a category that is not in ``root``.
    """
    if not settings.categories or not root.is_dir():
        return
    known = list(category_folders(root))
    for name in settings.categories:
        if name not in known:
            raise SettingsError(
                f"categories: {unknown_name('category', name, known)} of {root}. Correct the name "
                "in the settings file, or use a file of its own for this image set (--params)."
            )


@dataclass(frozen=True)
class _Found:
    """The image set on disk and its recorded version."""

    now: FileList
    files: dict[str, dict[str, str]]
    """Category -> path -> md5."""
    normals: dict[str, dict[str, str]]
    """Category -> path of a train normal -> md5."""
    head: RecordedVersion | None
    recorded: RecordedVersion | None
    """The recorded version of this image set; None: a new one."""
    assignments: dict[str, Assignment]
    """What the split file must contain."""


def _find_version(workspace: Workspace, dvc: DvcRepository, settings: Settings) -> _Found:
    folders = category_folders(image_folder(workspace))
    now = dvc.scan()
    files = {name: _files_of(name, now) for name in folders}
    scanned = {name: _scanned(folder) for name, folder in folders.items()}
    _ensure_all_seen(workspace, dvc, files, scanned)
    normals = {name: _train_normals(scanned[name], files[name]) for name in folders}
    head = version_at(workspace, "HEAD")
    assigner = _Assigner(normals, settings)
    recorded, assignments = _match_recorded_version(workspace, now, head, assigner)
    return _Found(now, files, normals, head, recorded, assignments)


@dataclass(frozen=True)
class _Assigner:
    normals: Mapping[str, Mapping[str, str]]
    settings: Settings

    def complete(self, base: Mapping[str, Assignment]) -> dict[str, Assignment]:
        """``base`` plus an assignment of every train normal without one."""
        result = dict(base)
        for name, normals in self.normals.items():
            if normals:
                own = self.settings.for_category(name)
                result[name] = assign(
                    base.get(name, {}),
                    normals,
                    settings=own.split,
                    smallest_alpha=own.calibration.alpha_reject,
                )
        return result


def _match_recorded_version(
    workspace: Workspace, now: FileList, head: RecordedVersion | None, assigner: _Assigner
) -> tuple[RecordedVersion | None, dict[str, Assignment]]:
    """Return the recorded version of the image set on disk, if any, and all assignments."""
    on_disk = read_split_file(workspace.split_file)
    tracked = workspace.dvc_file.exists() and parse_tracked(workspace.dvc_file.read_bytes())
    if tracked and tracked.dir_hash == now.dir_hash and assigner.complete(on_disk) == on_disk:
        name = workspace.split_file.name
        split_id = blob_id(workspace.root, name) if workspace.split_file.exists() else None
        for known in [*([head] if head else []), *list_versions(workspace)]:
            if (known.dir_hash, known.split_id) == (now.dir_hash, split_id):
                return known, on_disk
    committed = split_at(workspace, head) if head else {}
    assignments = assigner.complete(_merged(workspace, committed, on_disk))
    if head and head.dir_hash == now.dir_hash and committed == assignments:
        return head, assignments
    return None, assignments


def _merged(
    workspace: Workspace,
    committed: Mapping[str, Assignment],
    on_disk: Mapping[str, Assignment],
) -> dict[str, Assignment]:
    for name, assignment in on_disk.items():
        before = committed.get(name, {})
        for md5, part in assignment.items():
            if before.get(md5, part) != part:
                raise SplitError(
                    f"{workspace.split_file}: moves an image of {name} (md5 {md5}) from "
                    f"{before[md5]} to {part}. Assignments must never change, else calibration is "
                    f"void. Run 'git checkout HEAD -- {workspace.split_file.name}'."
                )
    names = {*committed, *on_disk}
    return {name: {**committed.get(name, {}), **on_disk.get(name, {})} for name in names}


def _files_of(name: str, now: FileList) -> dict[str, str]:
    prefix = f"{name}/"
    return {
        path.removeprefix(prefix): md5 for path, md5 in now.files.items() if path.startswith(prefix)
    }


def _scanned(folder: Path) -> Category | None:
    try:
        return scan_category(folder)
    except LayoutError:
        return None  # the examination of the category says why


def _train_normals(category: Category | None, files: Mapping[str, str]) -> dict[str, str]:
    images = category.train_normals if category else ()
    return {image.path: files[image.path] for image in images if image.path in files}


def _ensure_all_seen(
    workspace: Workspace,
    dvc: DvcRepository,
    files: Mapping[str, Mapping[str, str]],
    scanned: Mapping[str, Category | None],
) -> None:
    """Refuse files that DVC does not see; those that were added a moment ago may wait.

    Raises:
        WorkspaceError: a rule hides an image, a mask or a region of interest.
    """
    for name, category in scanned.items():
        for path in _files_to_version(category) if category else ():
            file = workspace.data / name / path
            rule = None if path in files[name] else dvc.hiding_rule(file)
            if rule is not None:
                raise WorkspaceError(
                    f"{printable(str(file))}: DVC does not see it, because of the rule {rule}. "
                    "Remove this rule: a file that DVC does not see is in no version."
                )


def _files_to_version(category: Category) -> Iterator[str]:
    """The images, masks and region of interest; POSIX, relative to the category's folder."""
    yield from category.region_files
    for image in category.images:
        yield image.path
        if image.mask is not None:
            for file in mask_files(category.folder / image.mask):
                yield file.relative_to(category.folder).as_posix()


def _ensure_not_ignored(workspace: Workspace) -> None:
    rule = ignoring_rule(workspace.root, workspace.dvc_file.name)
    if rule is not None:
        raise WorkspaceError(
            f"{workspace.dvc_file}: git ignores it, because of the rule {rule}. Remove this rule, "
            f"or add '!{workspace.dvc_file.name}' below it: the versions are recorded in this file."
        )


def category_digest(files: Mapping[str, str]) -> str:
    """Digest of files of a category.

    Args:
        files: POSIX path relative to the category's folder -> md5.

    Returns:
        The first 32 hexadecimal digits of the SHA-256 over the sorted (path, md5) list.
    """
    listed = "".join(f"{path}\0{md5}\n" for path, md5 in sorted(files.items()))
    return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:32]


def category_version(
    name: str, files: dict[str, str], normals: Mapping[str, str], assigned: Mapping[str, str]
) -> CategoryVersion:
    """Describe one category of a version.

    Args:
        name: of the category.
        files: path -> md5, as in DVC's list.
        normals: path -> md5 of the train normals.
        assigned: md5 -> part, of these and of images that are gone.
    """
    present = {md5: assigned[md5] for md5 in sorted(set(normals.values())) if md5 in assigned}
    used = {path: part for path, part in part_of(normals, present).items() if part in PARTS}
    return CategoryVersion(
        name=name,
        digest=category_digest(files),
        files=files,
        assignment=present,
        training_digest=category_digest({f"{used[path]}/{path}": files[path] for path in used}),
        test_digest=category_digest({p: md5 for p, md5 in files.items() if p not in used}),
    )


def _commit(workspace: Workspace, message: str) -> tuple[str, str, str]:
    files = [workspace.dvc_file.name, workspace.split_file.name]
    if not workspace.split_file.exists():
        files.pop()
    commit = commit_only(workspace.root, files, message)
    return (
        message.splitlines()[0],
        commit,
        create_numbered_tag(workspace.root, TAG_PREFIX, commit, message),
    )


def _message(dvc: DvcRepository, found: _Found) -> str:
    before: Mapping[str, str] | None = {}
    if found.head is not None:
        try:
            latest = dvc.file_list(found.head.dir_hash)
        except WorkspaceError:  # without the remote, the message only lacks its counts
            latest = None
        before = latest.files if latest else None
    return version_message(before, found.now.files, dir_hash=found.now.dir_hash)


def version_message(
    before: Mapping[str, str] | None, now: Mapping[str, str], *, dir_hash: str
) -> str:
    """The commit message of a version, with a subject like ``data: plate +3 ~1 -2, cloth +132``.

    Args:
        before: path -> md5 of the previous version; None: its file list is not available.
        now: path -> md5; the first folder of a path is the category.
        dir_hash: DVC's hash of the image set.
    """
    if before is None:
        subject = _counted(Counter(path.split("/", 1)[0] for path in now))
        body = ["The previous version's file list is not available, so changes are not counted."]
    else:
        changes = _changes(before, now)
        subject = _subject(changes)
        body = [
            f"{name}: {', '.join(f'{found[kind]} {kind}' for kind in _SIGNS if found[kind])}"
            for name, found in changes.items()
        ]
    return "\n".join([f"data: {subject}", "", *body, f"DVC: {dir_hash}"])


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, Counter[str]]:
    changes: dict[str, Counter[str]] = {}
    for path in sorted({*before, *now}):
        if before.get(path) == now.get(path):
            continue
        kind = "added" if path not in before else "changed" if path in now else "removed"
        changes.setdefault(path.split("/", 1)[0], Counter())[kind] += 1
    return changes


def _subject(changes: Mapping[str, Counter[str]]) -> str:
    if not changes:
        return "split file"
    if len(changes) <= _CATEGORIES_IN_SUBJECT:
        return ", ".join(f"{name} {_signed(found)}" for name, found in changes.items())
    return f"{len(changes)} categories, {_signed(sum(changes.values(), Counter()))}"


def _signed(found: Counter[str]) -> str:
    return " ".join(f"{sign}{found[kind]}" for kind, sign in _SIGNS.items() if found[kind])


def _counted(files: Counter[str]) -> str:
    if len(files) <= _CATEGORIES_IN_SUBJECT:
        return ", ".join(f"{name} {count} files" for name, count in files.items())
    return f"{len(files)} categories, {files.total()} files"
