"""Arguments of the benchmarks that take several categories."""

import argparse
from pathlib import Path


def add_categories(parser: argparse.ArgumentParser) -> None:
    """Add the folders of the categories, and ``--groups``."""
    parser.add_argument("categories", type=Path, nargs="+", help="folders of categories")
    parser.add_argument("--groups", nargs="*", default=[], help="CATEGORY=split.group_pattern")


def group_patterns(given: argparse.Namespace) -> dict[str, str]:
    """Category -> ``split.group_pattern``, of those with several images of one item."""
    return dict(pair.split("=", 1) for pair in given.groups)


def as_given(given: argparse.Namespace) -> str:
    """Both arguments as a page shows them."""
    names = " ".join(f"ROOT/{folder.name}" for folder in given.categories)
    groups = " ".join(f"'{pair}'" for pair in given.groups)
    return f"{names} --groups {groups}"
