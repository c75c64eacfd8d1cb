"""Printing of the commands: text and tables for people, JSON for programs."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(emoji=False)
_errors = Console(stderr=True)


def say(message: str) -> None:
    """Print one line without rich markup, since a path may contain square brackets."""
    console.print(message, highlight=False, markup=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table without rich markup, as ``say`` does; a cell with a colour is a ``Text``."""
    console.print(table, markup=False)


def fail(message: str) -> None:
    """Print an error to stderr, in red."""
    text = Text("stillwatch: ", style="bold red").append(message, style="not bold default")
    _errors.print(text, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning to stderr, in yellow."""
    text = Text("stillwatch: ", style="bold yellow").append(message, style="not bold default")
    _errors.print(text, highlight=False, soft_wrap=True)


def note(message: str) -> None:
    """Print a remark to stderr, so that it is no part of a JSON document on stdout."""
    _errors.print(Text(message, style="dim"), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def figure(value: float | None, digits: int = 3) -> str:
    """A figure for a table; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"
