"""``stillwatch validate``: check an image set without training."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from stillwatch.errors import LayoutError
from stillwatch.flows.cli.console import fail, print_json, print_table, say
from stillwatch.flows.cli.options import (
    LEARN,
    AsJson,
    Categories,
    CommandContext,
    PlantCommand,
    Root,
    say_what_a_root_is,
)
from stillwatch.settings import Settings

if TYPE_CHECKING:  # it imports Prefect and Great Expectations, which takes seconds
    from stillwatch.tasks.validation.report import ValidationReport

COLOURS = {"critical": "red", "warning": "yellow"}


app = typer.Typer()


@app.command(
    cls=PlantCommand,
    rich_help_panel=LEARN,
    epilog="Example: `stillwatch validate --category screw`",
)
def validate(
    context: typer.Context,
    root: Root = None,
    category: Categories = None,
    as_json: AsJson = False,
) -> None:
    """Version and check the images: duplicates, leakage, blur, masks, counts; train nothing.

    Exit code 1 when a category has a critical failure.
    """
    from stillwatch.tasks.data.workspace import ensure_images

    given: CommandContext = context.obj
    ensure_images(given.settings, root, category)
    results, refused = _validated(given.settings, root, category)
    if as_json:
        print_json(
            {report.category: asdict(report) for report, _ in results}
            | {name: {"category": name, "errored": [reason]} for name, reason in refused.items()}
        )
    else:
        say_what_a_root_is(root)
        for report, page in results:
            say(report.verdict())
            if report.failures:
                table = Table("severity", "file", "expected", "found")
                for failure in report.failures:
                    table.add_row(
                        Text(failure.severity, style=COLOURS[failure.severity]),
                        failure.path or "–",
                        failure.expected,
                        failure.found,
                    )
                print_table(table)
            _show_scales(report)
            for sentence in report.errored:
                fail(sentence)
            say(f"page: {page}")
        for name, reason in refused.items():
            fail(f"{name} must not be trained on: {reason}")
    if refused or not all(report.passed for report, _ in results):
        raise typer.Exit(1)


def _show_scales(report: "ValidationReport") -> None:
    """Print what each ``images.scale`` leaves of the smallest defect, and what it costs."""
    if report.scale is None:
        return
    for sentence in report.scale.sentences():
        say(sentence)
    if report.scale.options:
        table = Table("images", "defect after scaling", "tiles", "training", "per image")
        for option in report.scale.options:
            name = f"{option.name} (set)" if option.chosen else option.name
            table.add_row(name, option.seen, f"{option.tiles}", option.training, option.inspection)
        print_table(table)


def _validated(
    settings: Settings, root: Path | None, categories: list[str] | None
) -> "tuple[list[tuple[ValidationReport, Path]], dict[str, str]]":
    """Version the image set, check its categories, and write a page for each.

    Returns:
        The reports and pages, and why other categories cannot be read.
    """
    from stillwatch.flows.image_sets import check_category, chosen_categories, version_images

    data = version_images(settings, root=root, categories=categories)
    results, refused = [], dict(data.refused)
    for name in chosen_categories(data, categories):
        if name in refused:
            continue
        try:
            results.append(check_category(data, name, settings))
        except LayoutError as error:
            refused[name] = str(error)
    return results, refused
