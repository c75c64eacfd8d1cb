"""``stillwatch export``: a bundle for machines without torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from stillwatch.errors import ExportError
from stillwatch.flows.cli.console import console, print_json, say
from stillwatch.flows.cli.options import AsJson, CommandContext


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
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Compute convolutions with 8-bit integers (onnx only): other thresholds, set on "
            "the calibration images, and accuracy measured on the test images; the image set is "
            "versioned first.",
        ),
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(
            help="With --int8: the image set that has the category.",
            show_default="the workspace's own",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a bundle that inspects with ONNX Runtime or OpenVINO, without torch.

    Refused unless scores, maps and verdicts are those of the detector.
    """
    from stillwatch.flows.export import export_model

    given: CommandContext = context.obj
    if int8:
        _export_int8(given, bundle, out, to, images, root, as_json=as_json)
        return
    if root is not None:
        raise ExportError("--root goes with --int8 only. Name the images with --images.")
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


def _export_int8(
    given: CommandContext,
    bundle: str,
    out: Path,
    to: str,
    images: Path | None,
    root: Path | None,
    *,
    as_json: bool,
) -> None:
    from stillwatch.flows.export import export_quantized_model

    if to != "onnx":
        raise ExportError(
            "--int8 is for --to onnx only: OpenVINO gives wrong maps for what ONNX Runtime's "
            "quantiser writes. Export to onnx, or without --int8."
        )
    if images is not None:
        raise ExportError(
            "--int8 is calibrated and measured on the category's own images: leave --images out, "
            "or name an image set with --root."
        )
    found = export_quantized_model(bundle, out, root=root, settings=given.settings, say=say)
    if as_json:
        print_json(asdict(found))
        return
    table = Table("figure", "float32", "INT8")
    for name, value in found.float32.items():
        table.add_row(name, f"{value:.3f}", f"{found.int8[name]:.3f}")
    console.print(table)
    synthetic = "; the anomalies are synthetic" if found.synthetic else ""
    say(
        f"{out}: {found.verdicts_changed} of {found.images} test images have another verdict than "
        f"in float32, by thresholds of its own{synthetic}"
    )
