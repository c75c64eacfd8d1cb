"""A retraining on the terminal: progress bars during the run, tables at the end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stillwatch.flows.cli.console import console, fail, say
from stillwatch.flows.run_report import RetrainReport, seeds_sentence, short_rows
from stillwatch.flows.servers.prefect_server import local_api
from stillwatch.settings import Settings
from stillwatch.tasks.training.progress import TrainingProgress, running_trainings

_POLL_SECONDS = 0.5


@contextmanager
def watched_trainings(settings: Settings, output: Console, *, disabled: bool) -> Iterator[None]:
    """Show a progress bar with the time left for every training during the block."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=output,
        transient=True,
        disable=disabled,
    )
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(settings, progress, ended), daemon=True)
    with progress:
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def print_outcome(outcome: RetrainReport) -> None:
    """Print one row for each category and detector, what was registered, and why any failed."""
    rows = short_rows(outcome)
    if rows:
        # Headings of two words, and spreads, take two lines, so that it fits 80 columns.
        headings = (name.replace(" ", "\n") for name in rows[0])
        table = Table(*headings, box=box.SIMPLE_HEAD, padding=0)
        for row in rows:
            table.add_row(*(cell.replace(" ± ", "\n±") for cell in row.values()))
        console.print(table)
    if sentence := seeds_sentence(outcome):
        say(sentence)
    for name, category in outcome.categories.items():
        if category.status == "failed":
            fail(f"{name}: {category.reason}")
            continue
        word = "registered" if category.status == "registered" else "unchanged:"
        alias = f" as {category.alias}" if category.alias else ""
        say(
            f"{word} stillwatch-{name} version {category.model_version}{alias}: "
            f"{category.winner}, {category.selected}"
        )
        for sentence in category.thresholds:
            console.print(Padding(Text(sentence), (0, 0, 0, 2)))
        if category.comparison:
            console.print(Padding(Text(category.comparison), (0, 0, 0, 2)))
        if category.reason:
            say(f"  not promoted by itself: {category.reason}")
        if category.approval == "pending":
            say(f"  it waits for you: stillwatch promote {name} --approve --reason '...'")
    say(f"data version {outcome.data_version}")


def print_server(settings: Settings) -> None:
    """Print the address of the local Prefect server, which outlives the command."""
    api = local_api(settings)
    if api is not None:
        say(f"Prefect: {api.removesuffix('/api')} (runs until 'stillwatch down')")


def _watch(settings: Settings, progress: Progress, ended: threading.Event) -> None:
    bars: dict[str, TaskID] = {}
    while not ended.wait(_POLL_SECONDS):
        running = {training.title: training for training in running_trainings(settings.state_dir)}
        for title in set(bars) - set(running):
            progress.remove_task(bars.pop(title))
        for title, training in running.items():
            if title not in bars:
                bars[title] = progress.add_task(title, total=training.epochs, note="")
            progress.update(
                bars[title],
                completed=training.epoch,
                total=training.epochs,
                note=_note(training),
            )


def _note(training: TrainingProgress) -> str:
    minutes, seconds = divmod(round(training.seconds_left), 60)
    return f"validation loss {training.validation_loss:.4f}, {minutes}:{seconds:02d} left"
