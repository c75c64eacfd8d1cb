"""The outcome of a retraining on the terminal."""

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from stillwatch.flows.cli.command_log import from_here
from stillwatch.flows.cli.console import print_table, say
from stillwatch.flows.run_report import (
    CategoryReport,
    RetrainReport,
    seeds_sentence,
    terminal_rows,
)
from stillwatch.flows.servers.prefect_server import local_api
from stillwatch.settings import Settings
from stillwatch.tasks.evaluation.notes import group_sentences, promise, tested
from stillwatch.tasks.evaluation.winner import below_floors
from stillwatch.tasks.reports.task import report_file

_PARTS = {"train": "learn", "validation": "watch", "calibration": "calibrate", "test": "test"}
"""What the images of each part are for."""


def print_outcome(outcome: RetrainReport, settings: Settings) -> None:
    """Print a table of the detectors, and for each category what came of it and what is next."""
    rows = terminal_rows(outcome)
    if rows:
        # Headings of two words, and spreads, take two lines, so that it fits 80 columns.
        headings = (name.replace(" ", "\n") for name in rows[0])
        table = Table(*headings, box=box.SIMPLE_HEAD, padding=0)
        for row in rows:
            table.add_row(*(cell.replace(" ± ", "\n±") for cell in row.values()))
        print_table(table)
    if sentence := seeds_sentence(outcome):
        say(sentence)
    for name, category in outcome.categories.items():
        if category.status == "failed":
            say(f"✗ {name} was not retrained, for the reason above")  # said when it failed
        else:
            _print_category(name, category, settings)
    say(f"data version {outcome.data_version}")


def print_server(settings: Settings) -> None:
    """Print the address of the local Prefect server, which outlives the command."""
    api = local_api(settings)
    if api is not None:
        say(f"Prefect: {api.removesuffix('/api')} (runs until 'stillwatch down')")


def _print_category(name: str, category: CategoryReport, settings: Settings) -> None:
    counts = (f"{count} {_PARTS[part]}" for part, count in category.images.items())
    say(f"{name}   {' · '.join(counts)}")
    state = "✓ in production" if category.alias == "champion" else "✗ not in production"
    say(f"{state}: {tested(category.result)}")
    remarks = Table.grid(padding=(0, 1))
    for title, text in _remarks(name, category, settings):
        remarks.add_row(f" {title}:", Text(text, overflow="fold"))
    print_table(remarks)


def _remarks(name: str, category: CategoryReport, settings: Settings) -> Iterator[tuple[str, str]]:
    """Title and text of each line about a category that did not fail."""
    own, version = settings.for_category(name), category.model_version
    yield "version", f"{version}: {category.winner}, {category.selected}"
    if category.reason:
        yield "because", category.reason
    if category.comparison:
        yield "gate", category.comparison
    yield "promise", promise(category.result)
    for sentence in group_sentences(category.result):
        yield "groups", sentence
    if below_floors(category.result, own.retrain.floors):
        yield (
            "better",
            f"more good images ({category.images['train']} were learnt from), larger images "
            f"(images.size is {own.images.size}), a longer training",
        )
    yield "report", _report(name, version, settings)
    if category.alias == "champion":
        yield "next", f"stillwatch inspect {name} IMAGES"
    else:
        yield "next", f"stillwatch inspect {name} --version {version} IMAGES"
    if category.approval == "pending":
        despite = " --despite '...'" if category.missed_floors else ""
        yield "approve", f"stillwatch promote {name} --approve --reason '...'{despite}"


def _report(name: str, version: int | None, settings: Settings) -> str:
    """The file of the report, or the command that writes one."""
    file = report_file(settings.state_dir, name, version or 0)
    if not file.exists():
        return f"stillwatch report {name} --version {version} --out report.html"
    return str(from_here(file))
