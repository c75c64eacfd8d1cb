"""What a new user does and sees: four commands from 60 good images to the first verdicts.

Writes 60 images of good plates of the sample set, 128 x 128, to a folder as a user's own images,
and beside it images of new plates, good and defective. Runs the commands in processes of their own
with the settings of a new plant, and prints each command, what it printed and its seconds. Ends
with an error where a command fails, or where all of them take more than ten minutes. To be run on a
quiet machine.

    .venv/bin/python -m benchmarks.first_hour --page docs/first-hour.md
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.revision import commit, machine, short_commit
from benchmarks.tables import publish
from stillwatch.sample.image_set import SUBJECTS, draw_image, write_png

MINUTES = 10.0
"""That all commands together may take."""
COMMANDS = (
    "init plant",
    "add plate ../good --good",
    "retrain",
    "inspect plate ../new --version 1 --out results",
)
"""The first is given in the folder above the plant, the others in the plant."""
_GOOD_IMAGES = 60
_SIDE = 128
_COLUMNS = "100"
"""Of the terminal."""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    command: str
    code: int
    said: str
    """All of stdout and stderr, with ``~`` for the temporary folder."""
    seconds: float


def main() -> None:
    """Run the commands, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, help="file to write the page to")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="stillwatch-first-hour-") as name:
        done = _run_all(Path(name).resolve())
    if given.page is not None:
        publish(render(done, load), given.page)
    if wrong := problems(done):
        sys.exit("\n".join(wrong))


def _run_all(folder: Path) -> list[Done]:
    """Run the commands, up to the first that fails."""
    _write_images(folder)
    done: list[Done] = []
    plant = folder / "plant"
    try:
        for command in COMMANDS:
            done.append(_run(command, plant if done else folder))
            print(f"{_transcript(done[-1], is_first=len(done) == 1)}\n", flush=True)
            if done[-1].code != 0:
                break
    finally:
        if plant.is_dir():
            _run("down", plant)  # the Prefect server that the retraining started
    return done


def _write_images(folder: Path) -> None:
    for index in range(_GOOD_IMAGES):
        _write(folder / "good" / f"{index:03}.png", "train", "good", index)
    for index in range(4):
        _write(folder / "new" / f"good_{index}.png", "test", "good", index)
    for kind in SUBJECTS["plate"].defect_types:
        _write(folder / "new" / f"{kind}.png", "test", kind, 0)


def _write(path: Path, split: str, kind: str, index: int) -> None:
    picture = Image.fromarray(draw_image("plate", split, kind, index).pixels)
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    write_png(path, np.asarray(small))


def _run(command: str, folder: Path) -> Done:
    program = str(Path(sys.executable).parent / "stillwatch")
    started = time.perf_counter()
    # A file, as a pipe would stay open as long as the Prefect server that a command starts has it.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        code = subprocess.run(
            [program, *shlex.split(command)],
            cwd=folder,
            env=os.environ | {"COLUMNS": _COLUMNS},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ).returncode
        seconds = time.perf_counter() - started
        output.seek(0)
        printed = output.read()
    home = folder if command == COMMANDS[0] else folder.parent
    return Done(command, code, printed.replace(str(home), "~").strip(), seconds)


def _transcript(done: Done, *, is_first: bool) -> str:
    place = "~" if is_first else "~/plant"
    return f"{place}$ stillwatch {done.command}\n{done.said}\n[{done.seconds:.0f} s]"


def problems(done: Sequence[Done]) -> list[str]:
    """What is wrong with the commands; empty if all went well."""
    failed = [f"{one.command}: exit code {one.code}" for one in done if one.code != 0]
    minutes = _minutes(done)
    late = [f"{minutes:.1f} minutes, more than {MINUTES:.0f}"] if minutes > MINUTES else []
    return failed + late


def render(done: Sequence[Done], load: float) -> str:
    """The page in Markdown; ``load`` is the machine's load average before the first command."""
    wrong = problems(done)
    return "\n".join(
        [
            "# The first hour",
            "",
            "`python -m benchmarks.first_hour --page docs/first-hour.md`, commit "
            f"{short_commit(commit())}, {machine(torch.device('cpu'))}, load {load:.1f} before "
            "the first command.",
            "",
            f"After the [installation](../README.md#install): a folder `good` with {_GOOD_IMAGES} "
            f"images of good parts, {_SIDE}x{_SIDE}, and a folder `new` with images of new parts, "
            "whose names say what they show. The commands and what they print, with the settings "
            "of a new plant. Without test images nobody can say how good the detector is, so "
            "version 1 waits for a person.",
            "",
            *([f"**Not so in this run**: {'; '.join(wrong)}.", ""] if wrong else []),
            "```",
            "\n\n".join(_transcript(one, is_first=one is done[0]) for one in done),
            "```",
            "",
            f"{len(done)} commands, {_minutes(done):.1f} minutes from the first command to the "
            "verdicts.",
            "",
        ]
    )


def _minutes(done: Sequence[Done]) -> float:
    return sum(one.seconds for one in done) / 60


if __name__ == "__main__":
    main()
