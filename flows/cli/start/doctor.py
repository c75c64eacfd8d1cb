"""``stillwatch doctor``: check what stillwatch needs on this machine."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import typer
from rich.table import Table
from rich.text import Text

from stillwatch.errors import StillwatchError
from stillwatch.flows.cli.console import print_json, print_table, say
from stillwatch.flows.cli.options import START, AsJson, CommandContext, ShortCommand
from stillwatch.images.layout import category_folders
from stillwatch.machine.gpu_driver import has_gpu_driver
from stillwatch.machine.threads import thread_count, usable_cores
from stillwatch.settings import Settings
from stillwatch.teachers.weights import find_weights

PACKAGES = (
    *("torch", "torchvision", "timm", "scikit-learn", "prefect", "mlflow", "dvc"),
    "great-expectations",
)
ENOUGH_FREE_GB = 5.0


COLOURS = {"ok": "green", "note": "yellow", "missing": "red"}


app = typer.Typer()


@app.command(cls=ShortCommand, rich_help_panel=START, epilog="Example: `stillwatch doctor --json`")
def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Check this machine: versions, devices, teacher weights, disk, git, image set and servers.

    Exit code 1 when something that every command needs is missing.
    """
    given: CommandContext = context.obj
    findings = examine_machine(given.settings)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        table = Table("", "what", "found", show_header=False)
        for finding in findings:
            state = Text(finding.state, style=COLOURS[finding.state])
            table.add_row(state, finding.what, finding.detail)
        print_table(table)
        say(f"next: {_next_step(findings)}")
    if _missing(findings):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    state: Literal["ok", "note", "missing"]
    detail: str


def _missing(findings: Sequence[Finding]) -> list[str]:
    return [finding.what for finding in findings if finding.state == "missing"]


def _next_step(findings: Sequence[Finding]) -> str:
    if missing := _missing(findings):
        return f"mend what is missing ({', '.join(missing)}), then `stillwatch doctor` again"
    if any(one.what == "image set" and one.state == "note" for one in findings):
        return "`stillwatch add CATEGORY IMAGES`; outside a plant `stillwatch init DIR` first"
    return "`stillwatch retrain`"


def examine_machine(settings: Settings) -> list[Finding]:
    """The results of all checks; nothing is changed."""
    return [
        Finding("python", "ok", sys.version.split()[0]),
        *(_package(name) for name in PACKAGES),
        *_devices(),
        *_checked("teacher weights", lambda: _teacher(settings)),
        _disk(settings.state_dir),
        _git(),
        *_checked("image set", lambda: _image_set(settings)),
        *_checked("MLflow", lambda: _mlflow(settings)),
        _prefect(settings.state_dir),
    ]


def _checked(what: str, look: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield look()
    except StillwatchError as error:
        yield Finding(what, "missing", str(error))


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(
            name,
            "missing",
            "not installed: `pip install 'stillwatch[pipeline]'`, in a clone `make install`",
        )


def _devices() -> Iterator[Finding]:
    yield Finding("CPU", "ok", f"{usable_cores()} cores, {thread_count()} threads for torch")
    no_gpu = Finding("GPU", "note", "none; training runs on the CPU")
    if not has_gpu_driver():
        yield no_gpu
        return
    import torch

    if not torch.cuda.is_available():
        yield no_gpu
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        yield Finding(f"GPU cuda:{index}", "ok", f"{properties.name}, {memory:.0f} GiB")


def _teacher(settings: Settings) -> Finding:
    every = (settings, *map(settings.for_category, settings.categories))
    teachers = {one.teacher.name: one.teacher for one in every}
    found = map(find_weights, teachers.values())
    where = "; ".join(f"{weights.name}: {weights.path}" for weights in found)
    return Finding("teacher weights", "ok", where)


def _disk(folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 1e9
    state: Literal["ok", "note"] = "ok" if free >= ENOUGH_FREE_GB else "note"
    return Finding("disk", state, f"{free:.0f} GB free at {folder}")


def _git() -> Finding:
    if shutil.which("git") is None:
        return Finding("git", "missing", "not installed; image sets are versioned with it")
    reply = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True)
    return Finding("git", "ok", reply.stdout.strip().removeprefix("git version "))


def _image_set(settings: Settings) -> Finding:
    root = settings.workspace.data
    if not root.is_dir() or not any(root.iterdir()):
        return Finding("image set", "note", f"{root} is empty; `stillwatch add` adds images")
    names = ", ".join(category_folders(root))
    return Finding("image set", "ok", f"{root}: {names}")


def _mlflow(settings: Settings) -> Finding:
    if settings.tracking.uri is None:
        return Finding("MLflow", "ok", f"SQLite store in {settings.state_dir}")
    from stillwatch.tasks.tracking.client import open_tracking

    open_tracking(settings)
    return Finding("MLflow", "ok", f"{settings.tracking.uri} answers")


def _prefect(state_dir: Path) -> Finding:
    from prefect.settings import PREFECT_API_URL

    from stillwatch.flows.servers.service import answers

    url = PREFECT_API_URL.value()
    if not url:
        return Finding("Prefect", "ok", f"a local server is started when needed ({state_dir})")
    if answers(f"{url}/health"):
        return Finding("Prefect", "ok", f"{url} answers")
    return Finding("Prefect", "missing", f"PREFECT_API_URL={url} does not answer")
