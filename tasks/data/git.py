"""Run git: commit single files, tag, read old versions."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stillwatch.errors import WorkspaceError

FALLBACK_IDENTITY = ("-c", "user.name=stillwatch", "-c", "user.email=stillwatch@localhost")

# git sets these variables for hooks; inherited, they would redirect commands to another repository.
_HOOK_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_PREFIX",
    "GIT_NAMESPACE",
)

_OWN_SETTINGS = {
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "core.hooksPath": os.devnull,
    "core.autocrlf": "false",
    "core.safecrlf": "false",
    "core.excludesFile": os.devnull,
    "core.attributesFile": os.devnull,
}
"""Of a repository that stillwatch makes, over the settings of the user and of the machine."""
_WITHOUT_HOOKS = ("-c", f"core.hooksPath={os.devnull}")

_OPERATIONS = {
    "MERGE_HEAD": "merge",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "BISECT_LOG": "bisect",
}


@dataclass(frozen=True)
class Commit:
    """One commit; ``date`` is the committer's, ISO 8601."""

    sha: str
    date: str
    subject: str


def run_git(folder: Path, *arguments: str, stdin: str | None = None) -> bytes:
    """Run git in ``folder`` and return its standard output.

    Raises:
        WorkspaceError: git is not installed or failed; the message quotes git.
    """
    done = _git(folder, *arguments, stdin=stdin)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").split("\n")
        said = "; ".join(filter(None, map(str.strip, lines))) or f"exit code {done.returncode}"
        raise WorkspaceError(
            f"{folder}: 'git {_command(arguments)}' failed ({said}). Fix this in the repository, "
            "then run stillwatch again; it continues where it stopped."
        )
    return done.stdout


def create_repository(folder: Path) -> None:
    """Make a repository that global settings do not touch: no signatures, hooks or ignore files."""
    run_git(folder, "init", "--quiet", "--initial-branch=main", "--template=")
    for name, value in _OWN_SETTINGS.items():
        run_git(folder, "config", name, value)


def ensure_work_tree(folder: Path) -> None:
    """Check that ``folder`` lies in a git work tree.

    Raises:
        WorkspaceError: it does not, or git is not installed or refuses to work there.
    """
    if not folder.is_dir():
        raise WorkspaceError(
            f"{folder}: no such folder. Set workspace.path to a git + DVC repository."
        )
    done = _git(folder, "rev-parse", "--is-inside-work-tree")
    if done.returncode != 0 or done.stdout.strip() != b"true":
        said = done.stderr.decode(errors="replace").strip() or "it is a bare repository"
        raise WorkspaceError(
            f"{folder}: not a git work tree ({said}). Run 'git init' and 'dvc init' there, set "
            "workspace.path to a git + DVC repository, or name an image set with --root."
        )


def ensure_committable(folder: Path) -> None:
    """Check that git is in no state that a commit would disturb.

    Raises:
        WorkspaceError: a merge, rebase, cherry-pick, revert or bisect is in progress.
    """
    asked = [argument for name in _OPERATIONS for argument in ("--git-path", name)]
    found = run_git(folder, "rev-parse", *asked).decode().splitlines()
    for path, operation in zip(found, _OPERATIONS.values(), strict=True):
        if (folder / path).exists():
            raise WorkspaceError(
                f"{folder}: a git {operation} is in progress, so the changed image set cannot be "
                f"committed. Finish it or run 'git {operation} --abort' (bisect: 'git bisect "
                "reset'), then run stillwatch again."
            )


def commit_only(folder: Path, paths: Sequence[str], message: str) -> str:
    """Commit ``paths`` (relative to ``folder``) and return the commit's id.

    Other staged changes stay staged. Hooks are skipped: they are made for people's changes to
    code, and some of them stash or rewrite the work tree.

    Raises:
        WorkspaceError: git failed; the files on disk are unchanged.
    """
    untracked = [path for path in paths if not run_git(folder, "ls-files", "--", path)]
    if untracked:
        run_git(folder, "add", "--intent-to-add", "--force", "--", *untracked)
    options = ("--only", "--quiet", f"--message={message}")
    try:
        run_git(folder, *_WITHOUT_HOOKS, *_identity(folder), "commit", *options, "--", *paths)
    except WorkspaceError:
        if untracked:
            run_git(folder, "rm", "--cached", "--force", "--quiet", "--", *untracked)
        raise
    return run_git(folder, "rev-parse", "HEAD").decode().strip()


def create_numbered_tag(folder: Path, prefix: str, commit: str, message: str) -> str:
    """Tag ``commit`` (annotated) with the next free ``<prefix><n>`` and return the name."""
    numbers = [int(tag.removeprefix(prefix)) for tag in numbered_tags(folder, prefix).values()]
    tag = f"{prefix}{max(numbers, default=0) + 1}"
    options = ("--annotate", f"--message={message}")
    run_git(folder, *_WITHOUT_HOOKS, *_identity(folder), "tag", *options, tag, commit)
    return tag


def numbered_tags(folder: Path, prefix: str) -> dict[str, str]:
    """Commit -> its tag ``<prefix><n>``; of several tags the lowest."""
    listed = run_git(
        folder,
        "for-each-ref",
        "--format=%(refname:short) %(objectname) %(*objectname)",
        f"refs/tags/{prefix}*",
    )
    found = []
    for line in listed.decode().splitlines():
        tag, *objects = line.split()
        if re.fullmatch(re.escape(prefix) + r"\d+", tag):
            found.append((int(tag.removeprefix(prefix)), objects[-1]))
    return {commit: f"{prefix}{number}" for number, commit in sorted(found, reverse=True)}


def resolve_commit(folder: Path, revision: str) -> str | None:
    """The commit id of a tag, branch or (short) commit id; None if git knows none."""
    done = _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    return done.stdout.decode().strip() if done.returncode == 0 else None


def commits_touching(
    folder: Path, paths: Sequence[str], revisions: Sequence[str], *, newest: int | None = None
) -> list[Commit]:
    """Commits reachable from ``revisions`` that changed ``paths``, newest first."""
    if not revisions:
        return []
    limit = [f"--max-count={newest}"] if newest else []
    listed = run_git(folder, "log", "--format=%H%x1f%cI%x1f%s", *limit, *revisions, "--", *paths)
    return [Commit(*line.split("\x1f", 2)) for line in listed.decode().splitlines()]


def read_committed(
    folder: Path, commits: Sequence[str], path: str
) -> list[tuple[str, bytes] | None]:
    """(blob id, content) of ``path`` (relative to ``folder``) in each commit, None where absent."""
    stdin = "".join(f"{commit}:./{path}\n" for commit in commits)
    output = run_git(folder, "cat-file", "--batch", stdin=stdin)
    blobs: list[tuple[str, bytes] | None] = []
    position = 0
    for _ in commits:
        end = output.index(b"\n", position)
        header = output[position:end].split()
        position = end + 1
        if header[-1] == b"missing":
            blobs.append(None)
            continue
        size = int(header[-1])
        blobs.append((header[0].decode(), output[position : position + size]))
        position += size + 1
    return blobs


def blob_id(folder: Path, path: str) -> str:
    """The git blob id of the file ``path`` (relative to ``folder``) on disk."""
    return run_git(folder, "hash-object", "--", path).decode().strip()


def ignoring_rule(folder: Path, path: str) -> str | None:
    """The rule by which git ignores ``path`` (relative to ``folder``), with its file and line."""
    asked = ("check-ignore", "--no-index")
    if _git(folder, *asked, "--quiet", "--", path).returncode != 0:
        return None
    return run_git(folder, *asked, "--verbose", "--", path).decode().split("\t")[0]


def exclude(folder: Path, path: str) -> None:
    """Make git ignore ``path`` (relative to ``folder``) in this clone, if it does not yet.

    The entry goes to ``info/exclude``, which is not committed, unlike ``.gitignore``.
    """
    if _git(folder, "check-ignore", "--quiet", "--", path).returncode == 0:
        return
    found = (
        run_git(folder, "rev-parse", "--git-path", "info/exclude", "--show-prefix")
        .decode()
        .splitlines()
    )
    file, prefix = folder / found[0], found[1] if len(found) > 1 else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    separator = "" if not before or before.endswith("\n") else "\n"
    file.write_text(f"{before}{separator}/{prefix}{path}\n", encoding="utf-8")


def _command(arguments: Sequence[str]) -> str:
    """The name of git's command, behind the settings that are given with ``-c``."""
    start = 0
    while arguments[start] == "-c":
        start += 2
    return arguments[start]


def _identity(folder: Path) -> tuple[str, ...]:
    for kind in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
        # Without useConfigOnly git makes up an address from the login and host names.
        if _git(folder, "-c", "user.useConfigOnly=true", "var", kind).returncode != 0:
            return FALLBACK_IDENTITY
    return ()


def _git(
    folder: Path, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    git = shutil.which("git")
    if git is None:
        raise WorkspaceError(
            f"{folder}: git is not installed, and image sets are versioned with it. Install git "
            "(e.g. 'apt install git') and run stillwatch again."
        )
    environment = {k: v for k, v in os.environ.items() if k not in _HOOK_VARIABLES}
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    return subprocess.run(
        [git, "-C", str(folder), *arguments],
        input=(stdin or "").encode(),
        capture_output=True,
        env=environment,
        check=False,
    )
