"""Which code a benchmark ran, and on what."""

import platform
import subprocess

import torch

_CHANGES = "+changes"
_WRITTEN_HERE = (":(top,exclude)docs", ":(top,exclude)benchmarks/results")


def commit() -> str:
    """The checked-out commit's full hash, with ``+changes`` where tracked files are not its own.

    Pages and cells, which the benchmarks write, do not count.
    """
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *_WRITTEN_HERE)
    return _git("rev-parse", "HEAD") + (_CHANGES if changes else "")


def short_commit(commit: str) -> str:
    """The first ten digits, with the note about changes."""
    revision = commit.removesuffix(_CHANGES)
    return revision[:10] + commit[len(revision) :]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine(device: torch.device) -> str:
    """The processor that ``device`` is, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, no GPU"
