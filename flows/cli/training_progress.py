"""The trainings of a retraining on the terminal: bars, or lines where the output is a file."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stillwatch.settings import Settings
from stillwatch.tasks.training.progress import TrainingProgress, running_trainings

_POLL_SECONDS = 0.5


class _Display(Protocol):
    def update(self, running: Sequence[TrainingProgress]) -> None:
        """Show the trainings that go on now."""


@contextmanager
def watched_trainings(settings: Settings, output: Console, *, disabled: bool) -> Iterator[None]:
    """Show the epoch and the time left of every training that goes on during the block.

    A terminal gets a bar for each training; a file gets a line for each tenth of the epochs.
    """
    with ExitStack() as stack:
        if not disabled:
            bars = output.is_terminal
            display = stack.enter_context(_bars(output)) if bars else _Lines(output)
            stack.enter_context(_watching(settings, display))
        yield


@contextmanager
def _watching(settings: Settings, display: _Display) -> Iterator[None]:
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            display.update(running_trainings(settings.state_dir))

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def _bars(output: Console) -> Iterator["_Bars"]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=output, transient=True) as progress:
        yield _Bars(progress)


@dataclass
class _Bars:
    progress: Progress
    bars: dict[str, TaskID] = field(default_factory=dict)

    def update(self, running: Sequence[TrainingProgress]) -> None:
        for title in set(self.bars) - {training.title for training in running}:
            self.progress.remove_task(self.bars.pop(title))
        for training in running:
            if training.title not in self.bars:
                bar = self.progress.add_task(training.title, total=training.epochs, note="")
                self.bars[training.title] = bar
            self.progress.update(
                self.bars[training.title],
                completed=training.epoch,
                total=training.epochs,
                note=_note(training),
            )


@dataclass
class _Lines:
    output: Console
    shown: dict[tuple[str, str], int] = field(default_factory=dict)
    """Title and phase -> tenths of the epochs that were done at the last line."""

    def update(self, running: Sequence[TrainingProgress]) -> None:
        for training in running:
            phase = (training.title, training.phase)
            tenths = 10 * training.epoch // training.epochs
            if tenths > self.shown.get(phase, -1):
                self.shown[phase] = tenths
                self.output.print(
                    f"{training.title}: epoch {training.epoch}/{training.epochs}, "
                    f"{_note(training)}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
                self.output.file.flush()


def _note(training: TrainingProgress) -> str:
    return f"validation loss {training.validation_loss:.4f}, {training.time_left} left"
