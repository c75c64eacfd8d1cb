"""The outcome of a retraining on the terminal."""

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stillwatch.flows.cli.console import console, fail, say
from stillwatch.flows.run_report import RetrainReport, seeds_sentence, terminal_rows
from stillwatch.flows.servers.prefect_server import local_api
from stillwatch.settings import Settings


def print_outcome(outcome: RetrainReport) -> None:
    """Print one row for each category and detector, what was registered, and why any failed."""
    rows = terminal_rows(outcome)
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
