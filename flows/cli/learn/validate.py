"""``stillwatch validate``: the image-set checks without any training."""

from dataclasses import asdict

import typer
from rich.table import Table

from stillwatch.flows.cli.console import console, fail, print_json, say
from stillwatch.flows.cli.options import AsJson, Categories, CommandContext, Root

COLOURS = {"critical": "red", "warning": "yellow"}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: `stillwatch validate --root /images/mvtec --category screw`")(
        validate
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
    from stillwatch.flows.validation import validate_categories

    given: CommandContext = context.obj
    results = validate_categories(given.settings, root=root, categories=category, say=say)
    if as_json:
        print_json({result.report.category: asdict(result.report) for result in results})
    else:
        for result in results:
            report = result.report
            say(report.verdict())
            if report.failures:
                table = Table("severity", "file", "expected", "found")
                for failure in report.failures:
                    table.add_row(
                        f"[{COLOURS[failure.severity]}]{failure.severity}[/]",
                        failure.path or "–",
                        failure.expected,
                        failure.found,
                    )
                console.print(table)
            for sentence in report.errored:
                fail(sentence)
            say(f"page: {result.page}")
    if not all(result.report.passed for result in results):
        raise typer.Exit(1)
