"""What the commands print with: tables and colours for people, JSON for machines."""

import json
import sys
from typing import Any

from rich.console import Console

console = Console()
_errors = Console(stderr=True)


def say(message: str) -> None:
    """Print one line for a person."""
    console.print(message, highlight=False)


def fail(message: str) -> None:
    """Print why a command was refused, to stderr and in red."""
    _errors.print(f"[bold red]stillwatch:[/] {_plain(message)}", highlight=False, soft_wrap=True)


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


def _plain(message: str) -> str:
    return message.replace("[", r"\[")
