"""``stillwatch export``: a bundle for machines without torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.console import print_json, say
from flows.cli.options import AsJson, CommandContext


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=(
            "Example: `stillwatch export models:/stillwatch-plate@champion --to onnx --out edge "
            "--images new/`"
        )
    )(export)


def export(
    context: typer.Context,
    bundle: Annotated[
        str, typer.Argument(help="A bundle folder, models:/NAME/VERSION or models:/NAME@ALIAS.")
    ],
    to: Annotated[Literal["onnx", "openvino"], typer.Option(help="The graph's format.")],
    out: Annotated[Path, typer.Option(help="Folder of the exported bundle, new or empty.")],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Real images on which the graph must give what the detector gives.",
            show_default="the category's test images in the workspace",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a bundle that inspects with ONNX Runtime or OpenVINO, without torch.

    Refused unless scores, maps and verdicts are those of the detector.
    """
    from flows.export import export_model

    given: CommandContext = context.obj
    parity = export_model(bundle, out, to, images, given.settings)
    if as_json:
        print_json(asdict(parity))
        return
    say(
        f"{out}: on {parity.images} images the scores differ by up to {parity.score_difference:.2g}"
        f" and the maps by up to {parity.map_difference:.2g} (allowed: {parity.tolerance:.2g})"
    )
    say(
        f"the verdicts are equal for all {parity.verdicts_compared} images farther than that from "
        "a threshold"
    )
