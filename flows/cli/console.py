"""What the commands print with: tables and colours for people, JSON for machines."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

console = Console()
_errors = Console(stderr=True)


def say(message: str) -> None:
    """Print one line for a person, as it is: a path may hold what rich takes for markup."""
    console.print(message, highlight=False, markup=False, soft_wrap=True)


def fail(message: str) -> None:
    """Print why a command was refused, to stderr and in red."""
    text = Text("stillwatch: ", style="bold red").append(message, style="not bold default")
    _errors.print(text, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON document to stdout and nothing else."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def figure(value: float | None, digits: int = 3) -> str:
    """A figure for a table; an absent one is a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(value: tuple[float, float] | None) -> str:
    """A 95 % interval for a table; an absent one is nothing."""
    return "" if value is None else f" [{value[0]:.3f}, {value[1]:.3f}]"
