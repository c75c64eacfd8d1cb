"""``stillwatch label``: correct the verdicts of inspected images."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stillwatch.flows.cli.console import print_json, say
from stillwatch.flows.cli.options import INSPECT, AsJson, CommandContext, PlantCommand

app = typer.Typer()


@app.command(
    cls=PlantCommand,
    rich_help_panel=INSPECT,
    epilog="Example: `stillwatch label screw 0137.png 0152.png --as good`",
)
def label(
    context: typer.Context,
    category: Annotated[str, typer.Argument(help="The product line.")],
    files: Annotated[list[Path], typer.Argument(help="Image files; they stay where they are.")],
    as_: Annotated[str, typer.Option("--as", help="The true label: good, or the kind of defect.")],
    by: Annotated[
        str | None,
        typer.Option(help="Who corrects the verdicts.", show_default="the user of this process"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Correct the verdicts of inspected images: copy them into the inbox, marked as feedback.

    Good images are used for training only; defective images are evaluated apart from the test set.
    Either all images are copied, or none.
    """
    from stillwatch.tasks.inbox.labels import count_labels, label_images
    from stillwatch.tasks.liveness import os_user

    given: CommandContext = context.obj
    done = label_images(files, category, as_, who=by or os_user(), settings=given.settings)
    counts = count_labels(given.settings, category)
    if as_json:
        print_json(
            {
                "labelled": [
                    asdict(one) | {"file": str(one.file), "copy": str(one.copy)} for one in done
                ],
                "counts": [asdict(one) for one in counts],
            }
        )
        return
    for one in done:
        say(f"{one.file}: copied to {one.copy}; {one.remark}")
    for count in counts:
        say(f"so far in {category}: {count.images} × {count.given}, labelled {count.label}")
