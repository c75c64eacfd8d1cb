"""What the command line answers to mistakes, and how soon.

Makes a plant with two small categories of which one has a champion, makes each mistake with the
real command in a process of its own, and prints the command, its sentence, its exit code and the
CPU seconds. Ends with an error where an answer is not one sentence, has a traceback, exit code 0 or
took more than two CPU seconds. An answer that only MLflow's store has may take as much longer as
MLflow takes for itself, which is measured, too. Takes three minutes.

    .venv/bin/python -m benchmarks.mistakes --page docs/mistakes.md
"""

import argparse
import os
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.revision import commit, machine, short_commit
from benchmarks.tables import markdown, publish

CPU_SECONDS = 2.0
"""That an answer may take, beside what MLflow takes to open its store where that must be asked."""
_OPEN_STORE = """
from mlflow import MlflowClient
print(MlflowClient("sqlite:///.stillwatch/mlflow/mlflow.db").search_registered_models()[0].name)
"""
_PROGRAM = str(Path(sys.executable).parent / "stillwatch")
_SIDE = 64
_QUICK = {
    "images": {"size": _SIDE},
    "checks": {"min_train_normals": 4},
    "calibration": {"alpha_reject": 0.2, "alpha_review": 0.3},
    "detectors": {"stfpm": {"epochs": 1, "batch_size": 4}},
    "evaluation": {"size": _SIDE, "bootstrap_resamples": 100},
    "retrain": {
        "detectors": ["stfpm"],
        "floors": {"image_auroc": 0.0, "aupro": 0.0, "recall": 0.0},
    },
    "categories": {"nut": {"retrain": {"floors": {"image_auroc": 1.0}}}},
}
"""The settings of the plant: bolt becomes champion by itself, nut waits for a person."""
_ROOM = 4096
"""Bytes of the largest file where there is no room."""


@dataclass(frozen=True)
class Mistake:
    """A command that must be refused."""

    what: str
    command: str
    folder: str = "plant"
    """Where it is given, below the temporary folder."""
    environment: Mapping[str, str] = field(default_factory=dict)
    in_registry: bool = False
    """The answer is only known to MLflow, whose import and opening take time of their own."""
    no_room: bool = False


@dataclass(frozen=True)
class Answer:
    """What the command did."""

    mistake: Mistake
    code: int
    said: str
    """All of stdout and stderr but the name of the log file."""
    cpu_seconds: float
    allowed_seconds: float = CPU_SECONDS

    @property
    def problems(self) -> Iterator[str]:
        """What is wrong with the answer."""
        if len(self.said.splitlines()) != 1:
            yield "not one sentence"
        if "Traceback" in self.said:
            yield "a traceback"
        if self.code not in (1, 2):
            yield f"exit code {self.code}"
        if self.cpu_seconds > self.allowed_seconds:
            yield f"{self.cpu_seconds:.1f} CPU seconds"


def mistakes(port: int) -> list[Mistake]:
    """All mistakes; ``port`` is one that another program listens on."""
    return [
        Mistake("a typo in a command", "retrian"),
        Mistake("an unknown option", "retrain --fast"),
        Mistake("outside a plant", "inspect bolt new", folder="elsewhere"),
        Mistake("a second plant in a plant", "init ."),
        Mistake("no permission", "init /sys/plant", folder="elsewhere"),
        Mistake("a settings file that is not YAML", "--params broken.yaml models"),
        Mistake("an unknown setting", "--params unknown.yaml models"),
        Mistake("a typo in a category", "inspect bolts new", in_registry=True),
        Mistake("a category that has no champion", "inspect nut new", in_registry=True),
        Mistake("a version that is not there", "inspect bolt new --version 7", in_registry=True),
        Mistake("a missing file", "inspect bolt missing.png"),
        Mistake("a folder without images", "inspect bolt empty"),
        Mistake("a file that is no image", "inspect bolt notes.png"),
        Mistake("results that cannot be written", "inspect bolt new --out params.yaml"),
        Mistake("the wrong folder", "add screw .."),
        Mistake("a name that no category may have", "add 'Bolt 1' new --good"),
        Mistake("a defect without a name", "add bolt new --defect ''"),
        Mistake("no room for a file (`ulimit -f`)", "add bolt new --good", no_room=True),
        Mistake("a typo in a category to retrain", "retrain --category bolts"),
        Mistake("a typo in a detector", "retrain --detector stfmp"),
        Mistake(
            "a Prefect server that is gone",
            "retrain",
            environment={"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        ),
        Mistake("a data version that is not there", "data checkout data-9"),
        Mistake("a promotion without a reason", "promote nut --approve"),
        Mistake(
            "a promotion of the champion",
            "promote bolt --version 1 --approve --reason x",
            in_registry=True,
        ),
        Mistake(
            "a rollback where nothing came before", "rollback bolt --reason x", in_registry=True
        ),
        Mistake("the history of no category", "history bolts", in_registry=True),
        Mistake("a report of no version", "report bolt --version 7 --out r.html", in_registry=True),
        Mistake("an unknown format", "export bolt --to coreml --out edge"),
        Mistake("a label of no category", "label bolts new/300.png --as good"),
        Mistake("a port in use", f"serve bolt --port {port}"),
        Mistake("a typo in a category to serve", "serve bolts", in_registry=True),
        Mistake("a typo in a category to watch", "watch bolts", in_registry=True),
    ]


def main() -> None:
    """Make the mistakes, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, help="file to write the page to")
    given = parser.parse_args()
    answers: list[Answer] = []
    with tempfile.TemporaryDirectory(prefix="stillwatch-mistakes-") as name, _listener() as port:
        folder = Path(name).resolve()
        _make_plant(folder)
        try:
            _, _, store_seconds = _run([sys.executable, "-c", _OPEN_STORE], folder / "plant", {})
            print(f"MLflow opens its store in {store_seconds:.1f} CPU seconds\n", flush=True)
            for mistake in mistakes(port):
                allowed = CPU_SECONDS + (store_seconds if mistake.in_registry else 0)
                answers.append(_make(mistake, folder, allowed))
                print(_transcript(answers[-1]), flush=True)
        finally:
            _run([_PROGRAM, "down"], folder / "plant", {})
    if given.page is not None:
        publish(render(answers, store_seconds), given.page)
    if wrong := problems(answers):
        sys.exit("\n".join(wrong))


@contextmanager
def _listener() -> Iterator[int]:
    """A port that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def _make_plant(folder: Path) -> None:
    for name in ("bolt", "nut"):
        _write_category(folder / "images" / name)
    (folder / "elsewhere").mkdir()
    plant = folder / "plant"
    _ensure_done("init plant", folder)
    (plant / "params.yaml").write_text(yaml.safe_dump(_QUICK), encoding="utf-8")
    (plant / "broken.yaml").write_text("training: [\n", encoding="utf-8")
    (plant / "unknown.yaml").write_text("trainings: {}\n", encoding="utf-8")
    (plant / "notes.png").write_text("no image\n", encoding="utf-8")
    (plant / "empty").mkdir()
    _write_images(plant / "new", 2, seed=300)
    for name in ("nut", "bolt"):  # the settings name nut
        _ensure_done(f"add {name} ../images/{name}", plant)
    _ensure_done("retrain", plant)


def _write_category(folder: Path) -> None:
    _write_images(folder / "train" / "good", 12, seed=0)
    _write_images(folder / "test" / "good", 4, seed=100)
    _write_images(folder / "test" / "spot", 4, seed=200, spot=True)


def _write_images(folder: Path, count: int, *, seed: int, spot: bool = False) -> None:
    """Smooth parts in random light; ``spot`` paints a bright defect on them."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(60, 180, (8, 8, 3), dtype=np.uint8))
        part = coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        if spot:
            part.paste((255, 255, 0), (20, 20, 36, 36))
        part.save(folder / f"{seed + number}.png")


def _ensure_done(command: str, folder: Path) -> None:
    code, said, _ = _run([_PROGRAM, *shlex.split(command)], folder, {})
    if code != 0:
        sys.exit(f"stillwatch {command}: {said}")


def _make(mistake: Mistake, folder: Path, allowed_seconds: float) -> Answer:
    limit = _limit_files if mistake.no_room else None
    command = [_PROGRAM, *shlex.split(mistake.command)]
    code, said, cpu_seconds = _run(command, folder / mistake.folder, mistake.environment, limit)
    lines = said.replace(f"{folder}/", "").splitlines()
    said = "\n".join(line for line in lines if line.strip() and not line.startswith("log: "))
    return Answer(mistake, code, said, cpu_seconds, allowed_seconds)


def _run(
    command: list[str],
    folder: Path,
    environment: Mapping[str, str],
    before: Callable[[], None] | None = None,
) -> tuple[int, str, float]:
    """Exit code, what was said, and CPU seconds of the process and of those that it waited for."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=before,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return process.returncode, output.read(), usage.ru_utime + usage.ru_stime


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM, _ROOM))


def _transcript(answer: Answer) -> str:
    return (
        f"$ stillwatch {answer.mistake.command}\n{answer.said}\n"
        f"[exit code {answer.code}, {answer.cpu_seconds:.1f} CPU seconds]\n"
    )


def problems(answers: Sequence[Answer]) -> list[str]:
    """What is wrong with each answer that is not a good one."""
    found = ((one.mistake.what, [*one.problems]) for one in answers)
    return [f"{what}: {', '.join(wrong)}" for what, wrong in found if wrong]


def render(answers: Sequence[Answer], store_seconds: float) -> str:
    """The page in Markdown; ``store_seconds`` is the CPU time of opening MLflow's store."""
    wrong = problems(answers)
    rows = [
        [
            answer.mistake.what,
            f"`{_cell(answer.mistake.command)}`",
            _cell(answer.said.removeprefix("stillwatch: ")),
            str(answer.code),
            f"{answer.cpu_seconds:.1f}" + (" \\*" if answer.mistake.in_registry else ""),
        ]
        for answer in answers
    ]
    return "\n".join(
        [
            "# What stillwatch answers to mistakes",
            "",
            f"`python -m benchmarks.mistakes --page docs/mistakes.md`, commit "
            f"{short_commit(commit())}, {machine(torch.device('cpu'))}.",
            "",
            "A mistake is answered by one sentence, without a traceback. The exit code is 1 where "
            "something was refused and 2 where the command is used wrongly; the CPU seconds are "
            f"those of the whole process, at most {CPU_SECONDS:.0f}. Where the answer is only in "
            "MLflow's store, marked \\*, MLflow's own import and opening of the store come in "
            f"addition: they alone took {store_seconds:.1f} CPU seconds in the same minutes. In "
            "the plant of these commands *bolt* has a champion, and version 1 of *nut* waits for "
            "a person.",
            "",
            *([f"**Not so in this run**: {'; '.join(wrong)}.", ""] if wrong else []),
            *markdown(["mistake", "stillwatch …", "answer", "exit code", "CPU seconds"], rows),
            "",
        ]
    )


def _cell(text: str) -> str:
    """Text for a cell of a table, on one line."""
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    main()
