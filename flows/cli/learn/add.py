"""``stillwatch add``: add images to a category, version and check them."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from stillwatch.flows.cli.console import fail, say
from stillwatch.flows.cli.options import LEARN, CommandContext, PlantCommand
from stillwatch.images.layout import check_category_name, existing_path
from stillwatch.images.source_layouts import category_files, labelled_files
from stillwatch.text import some_of

app = typer.Typer()


@app.command(
    cls=PlantCommand,
    rich_help_panel=LEARN,
    epilog="Examples: `stillwatch add screw mvtec/screw`, `stillwatch add screw new --good`",
)
def add(
    context: typer.Context,
    category: Annotated[str, typer.Argument(help="The product line; a new one is created.")],
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder of one category in the layout of MVTec AD, MVTec LOCO AD, VisA, BTAD or "
            "anomalib's `Folder`, or of images with --good or --defect; it is only read."
        ),
    ],
    good: Annotated[
        bool, typer.Option("--good", help="All are images of good parts, to learn from.")
    ] = False,
    test: Annotated[
        bool,
        typer.Option(
            "--test",
            help="With --good: all are only to test with, 10 or more. Without any, a person "
            "promotes each version.",
        ),
    ] = False,
    defect: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="All show this kind of defect; a mask may lie beside its image as IMAGE_mask.png.",
        ),
    ] = None,
    follow_links: Annotated[
        bool,
        typer.Option(
            "--follow-links",
            help="Copy the files that symbolic links lead to, wherever they lie.",
        ),
    ] = False,
) -> None:
    """Copy images into the plant's image set, version them and check them.

    All images are copied, or none. Exit code 1 also when a check fails: the images are then added.
    """
    if good and defect is not None:
        raise typer.BadParameter("give --good or --defect, not both", param_hint="--good")
    if test and not good:
        raise typer.BadParameter("is for good parts: give --good, too", param_hint="--test")
    from stillwatch.tasks.data.adding import add_files
    from stillwatch.tasks.data.workspace import open_workspace

    check_category_name(category)
    given: CommandContext = context.obj
    label = "good" if good else defect
    found = (
        category_files(images, follow_links=follow_links)
        if label is None
        else labelled_files(images, label, to_test=test, follow_links=follow_links)
    )
    workspace = open_workspace(given.settings)
    done = add_files(found.files, category, workspace)
    say(f"layout: {found.layout}")
    if found.left_out:
        named = some_of(found.left_out)
        say(f"left out: {len(found.left_out)} images without a place in this layout ({named})")
    there = f"; {done.kept} were there already" if done.kept else ""
    say(f"{category}: {done.copied} of {len(found.files)} files copied{there}")
    folder = workspace.data / category
    counts = Counter("/".join(existing_path(folder, path).split("/")[:2]) for path in found.files)
    listed = ", ".join(f"{inner} {count}" for inner, count in counts.items())
    say(f"in {folder}: {listed}")

    # These import Prefect and Great Expectations, which takes seconds.
    from stillwatch.flows.image_sets import check_category, version_images

    data = version_images(given.settings, root=None, categories=None)
    say(f"{'new' if data.changed else 'same'} data version: {data.name} ({data.message})")
    report, page = check_category(data, category, given.settings)
    say(report.verdict())
    say(f"page: {page}")
    if not report.passed:
        fail(f"{category}: {report.reason()}")
        raise typer.Exit(1)
    say(f"next: stillwatch retrain --category {category}")
