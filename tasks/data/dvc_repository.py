"""Use DVC from Python: hash, add, push, fetch and check out a folder.

``dvc.repo.Repo`` is DVC's Python interface. It is documented only by its source, so every use of it
is in this module.
"""

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import colorama
import yaml
from dvc.config import Config
from dvc.ignore import DvcIgnoreFilter
from dvc.lock import LockError
from dvc.repo import Repo
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.transfer import transfer
from dvc_data.hashfile.tree import Tree

from stillwatch.errors import StorageError, WorkspaceError
from stillwatch.files import storage_errors
from stillwatch.text import is_text

LOCAL_REMOTE = "stillwatch-local"
_CONFIG = {"core": {"autostage": False}}
_PATIENCE_SECONDS = 600.0


class _TransferErrors(logging.Handler):
    """Keeps the error of DVC's latest failed transfer, which DVC logs but does not raise."""

    latest: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.latest = record.exc_info[1]


_transfer_errors = _TransferErrors(level=logging.ERROR)


def _quiet_dvc() -> None:
    # Importing DVC wraps stdout for Windows consoles.
    colorama.deinit()
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.addHandler(_transfer_errors)
        logger.setLevel(logging.WARNING)
    # DVC disables this logger for the whole process, and with it the errors of Prefect's tasks.
    logging.getLogger("asyncio").setLevel(logging.NOTSET)
    # DVC shows progress bars unless this logger is off.
    logging.getLogger("dvc.progress").setLevel(logging.CRITICAL)


_quiet_dvc()


@dataclass(frozen=True)
class FileList:
    """The content of an image set's folder: DVC's hash (``<md5>.dir``) and path -> md5."""

    dir_hash: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Tracked:
    """The content of a ``.dvc`` file that tracks a folder."""

    dir_hash: str
    file_count: int


@dataclass(frozen=True)
class DvcRemote:
    """The name and settings of a DVC remote, for use on another machine."""

    name: str
    settings: Mapping[str, str]
    """The address and other settings of the repository's shared configuration. Passwords are not
    among them: they belong in each machine's own configuration or environment."""


class _VersionableFiles(DvcIgnoreFilter):  # type: ignore[misc]  # DVC has no types
    """Passes by what DVC cannot version, on which it would fail or wait for ever.

    These are links to nothing, pipes, and names that are not UTF-8. The scan of their category
    refuses them, so that they stop no other category.
    """

    def walk(self, fs: Any, path: str, **options: Any) -> Iterator[Any]:
        """As ``DvcIgnoreFilter.walk``; files is a list, or a table with the names as keys."""
        for root, folders, files in super().walk(fs, path, **options):
            kept = {name for name in files if is_text(name) and Path(root, name).is_file()}
            if isinstance(files, dict):
                yield root, folders, {name: files[name] for name in files if name in kept}
            else:
                yield root, folders, [name for name in files if name in kept]


class _Repo(Repo):  # type: ignore[misc]
    @cached_property
    def dvcignore(self) -> DvcIgnoreFilter:
        return _VersionableFiles(self.fs, self.root_dir)


class DvcRepository:
    """An open DVC repository with the folder of the image set."""

    def __init__(self, repo: Repo, folder: Path, remote: str | None, local_remote: Path) -> None:
        self._repo = repo
        self._folder = folder
        self._remote = remote
        self._local_remote = local_remote

    def scan(self) -> FileList:
        """Hash the folder; files with the size, time and inode of the last scan are not read."""
        with self._errors():
            _, tree = self._build(dry_run=True)
        return _file_list(tree)

    def hiding_rule(self, file: Path) -> str | None:
        """The rule of a ``.dvcignore`` that hides a file or a folder above it, with its place."""
        inside = file.relative_to(self._folder)
        for depth in range(len(inside.parts) + 1):
            path = self._folder / Path(*inside.parts[:depth])
            result = self._repo.dvcignore.check_ignore(str(path))
            if result.match:
                return str(result.pattern_infos[-1].file_info)
        return None

    def store(self, expected: FileList) -> None:
        """Add the folder's files to DVC's cache."""
        if self._repo.cache.local.exists(expected.dir_hash):
            return
        with self._errors():
            staging, tree = self._build(dry_run=False)
            if tree.hash_info.value != expected.dir_hash:
                raise WorkspaceError(_CHANGED_MEANWHILE.format(folder=self._folder))
            done = transfer(
                staging, self._repo.cache.local, {tree.hash_info}, hardlink=False, shallow=False
            )
            _ensure_transferred(done.failed, f"{self._folder}: copying it to DVC's cache")

    def track(self, expected: FileList) -> None:
        """Write the ``.dvc`` file, unless it matches ``expected`` already; no file is relinked."""
        file = self._folder.with_name(f"{self._folder.name}.dvc")
        before = file.read_bytes() if file.exists() else None
        wanted = Tracked(expected.dir_hash, len(expected.files))
        if before is not None and parse_tracked(before) == wanted:
            return
        with self._errors():
            self._when_unlocked(lambda: self._repo.add(str(self._folder), relink=False))
        try:
            written = parse_tracked(file.read_bytes())
            if written is None or written.dir_hash != expected.dir_hash:
                raise WorkspaceError(_CHANGED_MEANWHILE.format(folder=self._folder))
        except WorkspaceError:
            file.unlink() if before is None else file.write_bytes(before)
            raise

    def push(self, file_list: FileList) -> None:
        """Copy the files of ``file_list`` that the remote lacks.

        DVC writes the list of a folder last: a remote with the list has all files of it.
        """
        remote = self._remote_name()
        with self._errors(f"remote '{remote}'"):
            if self._repo.cloud.get_remote_odb(remote, "push").exists(file_list.dir_hash):
                return
            hashes = (file_list.dir_hash, *file_list.files.values())
            objects = {HashInfo("md5", one) for one in hashes}
            done = self._repo.cloud.push(objects, remote=remote)
            _ensure_transferred(
                done.failed, f"{self._folder}: pushing to the DVC remote '{remote}'"
            )

    def fetch(self, dir_hash: str) -> FileList:
        """Fetch a version of the folder from the remote, as far as DVC's cache lacks it.

        Raises:
            WorkspaceError: neither the cache nor the remote has all of it.
        """
        file_list = self.file_list(dir_hash)
        if file_list is None:
            raise WorkspaceError(
                f"{self._folder}: the file list {dir_hash} is neither in DVC's cache nor on the "
                f"remote '{self._remote_name()}'. It was never pushed, or was removed."
            )
        self._fetch_missing(set(file_list.files.values()))
        return file_list

    def link_files(self, files: Mapping[str, str], folder: Path) -> None:
        """Create files, path -> md5, in a folder; what the cache lacks is fetched from the remote.

        The files are hard links to the cache, on the same disk: nobody may write to them.

        Raises:
            WorkspaceError: neither the cache nor the remote has all of them.
        """
        self._fetch_missing(set(files.values()))
        for path, md5 in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(self._repo.cache.local.oid_to_path(md5))

    def remote(self) -> DvcRemote:
        """The remote that receives new images."""
        name = self._remote_name()
        with self._errors():
            shared = self._repo.config.load_one("repo")["remote"].get(name, {})
            url = str(self._repo.config["remote"][name]["url"])
        return DvcRemote(name, {"url": url} | shared)

    def file_list(self, dir_hash: str) -> FileList | None:
        """The file list of a version, from the cache or the remote; None if both lack it."""
        cache, wanted = self._repo.cache.local, HashInfo("md5", dir_hash)
        if not cache.exists(dir_hash):
            remote = self._remote_name()
            with self._errors(f"remote '{remote}'"):
                self._repo.cloud.pull({wanted}, remote=remote)
        with self._errors():
            return _file_list(Tree.load(cache, wanted)) if cache.exists(dir_hash) else None

    def check_out(self) -> None:
        """Replace the folder's content by that of its ``.dvc`` file, which the cache must have."""
        with self._errors():
            target = f"{self._folder}.dvc"
            self._when_unlocked(lambda: self._repo.checkout(targets=[target], force=True))

    def _build(self, *, dry_run: bool) -> tuple[HashFileDB, Tree]:
        repo = self._repo
        staging, _, tree = build(
            repo.cache.local,
            str(self._folder),
            repo.fs,
            "md5",
            ignore=repo.dvcignore,
            dry_run=dry_run,
        )
        return staging, cast(Tree, tree)

    def _when_unlocked(self, operation: Callable[[], object]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        waiting = False
        while True:
            try:
                operation()
                return
            except LockError as error:  # after DVC has tried for three seconds itself
                if time.monotonic() > deadline:
                    raise WorkspaceError(
                        f"{self._repo.root_dir}: a dvc command has held DVC's lock for ten "
                        "minutes. Wait for it or end it, then run stillwatch again."
                    ) from error
                if not waiting:
                    root = self._repo.root_dir
                    logging.getLogger(__name__).warning(
                        "waiting for a dvc command that runs in %s ...", root
                    )
                waiting = True

    def _fetch_missing(self, wanted: set[str]) -> None:
        absent = self._absent(wanted)
        if not absent:
            return
        remote = self._remote_name()
        with self._errors(f"remote '{remote}'"):
            self._repo.cloud.pull({HashInfo("md5", md5) for md5 in absent}, remote=remote)
        absent = self._absent(wanted)
        if absent:
            raise WorkspaceError(
                f"{self._folder}: {len(absent)} of {len(wanted)} files of that version are "
                f"neither in DVC's cache nor on the remote '{remote}'. Nothing was changed."
            )

    def _absent(self, wanted: set[str]) -> set[str]:
        return wanted - set(self._repo.cache.local.oids_exist(list(wanted)))

    def _remote_name(self) -> str:
        config = self._repo.config
        name: str | None = self._remote or config["core"].get("remote")
        if name is None:
            # Not as the default remote, so that a default that a person sets later is used.
            if config["remote"].get(LOCAL_REMOTE, {}).get("url") != str(self._local_remote):
                remote = {LOCAL_REMOTE: {"url": str(self._local_remote)}}
                with Config(self._repo.dvc_dir).edit("local") as local:
                    local["remote"].update(remote)
                config.merge({"remote": remote})
            return LOCAL_REMOTE
        if name not in config["remote"]:
            known = ", ".join(sorted(config["remote"])) or "none"
            raise WorkspaceError(
                f"{self._repo.root_dir}: DVC remote '{name}' does not exist (known: {known}). Add "
                f"it with 'dvc remote add {name} URL', or change the setting workspace.remote."
            )
        return name

    @contextmanager
    def _errors(self, where: str | None = None) -> Iterator[None]:
        place = f"{self._repo.root_dir}: DVC, {where}" if where else f"{self._folder}: DVC"
        _transfer_errors.latest = None
        try:
            yield
        except (WorkspaceError, StorageError):
            raise
        except Exception as error:  # DVC and its remotes' clients share no base class
            _raise_full_disk(error, place)
            reason = re.sub(r"\x1b\[\d+m", "", f"{type(error).__name__}: {error}").rstrip(".")
            raise WorkspaceError(
                f"{place} failed ({reason}). Nothing was committed; fix "
                "this and run stillwatch again, it continues where it stopped."
            ) from error


def ensure_dvc(root: Path) -> None:
    """Check that ``root`` itself is the top folder of a DVC repository.

    Raises:
        WorkspaceError: ``root`` is not.
    """
    if not (root / ".dvc").is_dir():
        raise WorkspaceError(
            f"{root}: not a DVC repository. Run 'dvc init' there and commit the result, or set "
            "workspace.path to a git + DVC repository."
        )


@contextmanager
def open_dvc(
    root: Path, folder: Path, *, remote: str | None, local_remote: Path
) -> Iterator[DvcRepository]:
    """Open the DVC repository at ``root``.

    Args:
        folder: the folder in it that holds the image set.
        remote: name of the DVC remote, or None for the repository's default.
        local_remote: folder that is the remote where the repository has no default either.

    Raises:
        WorkspaceError: not a DVC repository.
    """
    ensure_dvc(root)
    with _opened(root, _CONFIG) as repo:
        yield DvcRepository(repo, folder, remote, local_remote)


@contextmanager
def open_pulled(root: Path, remote: DvcRemote) -> Iterator[DvcRepository]:
    """Open the DVC repository at ``root`` for files of another machine's remote.

    Raises:
        WorkspaceError: not a DVC repository.
    """
    ensure_dvc(root)
    config = _CONFIG | {"remote": {remote.name: dict(remote.settings)}}
    with _opened(root, config) as repo:
        yield DvcRepository(repo, root, remote.name, root)


@contextmanager
def _opened(root: Path, config: Mapping[str, object]) -> Iterator[Repo]:
    try:
        repo = _Repo(str(root), config=config)
    except Exception as error:  # DVC's and git's bindings share no base class
        raise WorkspaceError(f"{root}: DVC cannot open it ({error}). Fix this first.") from error
    try:
        yield repo
    finally:
        repo.close()


def initialise_dvc(root: Path, *, in_git: bool = True) -> None:
    """Initialise DVC in ``root``: cache type copy, no telemetry."""
    repo = Repo.init(str(root), no_scm=not in_git)
    try:
        with repo.config.edit("repo") as config:
            config["core"].update({"analytics": False, "check_update": False})
            config["cache"] = {"type": "copy"}
    finally:
        repo.close()


def parse_tracked(text: bytes) -> Tracked | None:
    """Parse a ``.dvc`` file that tracks one folder; None for any other content."""
    try:
        (out,) = yaml.safe_load(text)["outs"]
        return Tracked(str(out["md5"]), int(out["nfiles"]))
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return None


_CHANGED_MEANWHILE = (
    "{folder}: changed while it was being versioned. Let the copying finish, then run stillwatch "
    "again."
)


def _ensure_transferred(failed: set[HashInfo], doing: str) -> None:
    if not failed:
        return
    reason = _transfer_errors.latest
    if reason is not None:
        _raise_full_disk(reason, doing)
    raise WorkspaceError(
        f"{doing} failed for {len(failed)} files ({reason or 'DVC gives no reason'}). Nothing was "
        "committed; fix this and run stillwatch again, it continues where it stopped."
    )


def _raise_full_disk(error: BaseException, place: str) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        with storage_errors(Path(place)):
            raise error


def _file_list(tree: Tree) -> FileList:
    files = {"/".join(key): str(info.value) for key, _, info in tree}
    return FileList(str(tree.hash_info.value), dict(sorted(files.items())))
