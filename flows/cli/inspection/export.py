"""``stillwatch export``: write a bundle for machines without torch."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stillwatch.errors import ExportError
from stillwatch.flows.cli.console import print_json, say
from stillwatch.flows.cli.options import (
    INSPECT,
    AsJson,
    CommandContext,
    PlantCommand,
    Source,
    Version,
)
from stillwatch.images.layout import existing_name
from stillwatch.settings import Settings

if TYPE_CHECKING:  # these import scipy, torch or MLflow, which takes seconds
    from stillwatch.bundle import BundleInfo, GraphFormat
    from stillwatch.inference.parity import Parity


app = typer.Typer()


@app.command(
    cls=PlantCommand,
    rich_help_panel=INSPECT,
    epilog="Example: `stillwatch export plate --to onnx --out edge --images new/`",
)
def export(
    context: typer.Context,
    source: Source,
    to: Annotated[Literal["onnx", "openvino"], typer.Option(help="The graph's format.")],
    out: Annotated[Path, typer.Option(help="Folder of the exported bundle, new or empty.")],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Images on which the graph must give the same results as the detector.",
            show_default="the category's test images in the workspace",
        ),
    ] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Write a bundle that inspects with ONNX Runtime or OpenVINO, without torch.

    Refused unless scores, maps and verdicts equal those of the detector.
    """
    given: CommandContext = context.obj
    parity = export_model(source, out, to, images, given.settings, version)
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


def export_model(
    source: str,
    folder: Path,
    graph_format: "GraphFormat",
    images: Path | None,
    settings: Settings,
    version: int | None = None,
) -> "Parity":
    """Export a bundle, compared on real images.

    Args:
        source: as for ``open_model``.
        folder: new or empty.
        graph_format: ``onnx`` or ``openvino``.
        images: an image file or a folder of images; None: the category's test images in the
            settings' image set.
        settings: name the registry and the image set.
        version: of a category; None: its champion.

    Raises:
        ExportError: as ``export_bundle``, or there are no images to compare on.
        ImageError: an image cannot be read.
        StillwatchError: as ``open_model``.
    """
    from stillwatch.export.export import export_bundle
    from stillwatch.flows.models import open_model
    from stillwatch.images.decode import read_image
    from stillwatch.inference.inspector import find_images

    model = open_model(source, settings, version)
    info = model.bundle.info
    own = settings.for_category(info.category)
    pixels = (
        read_image(
            file,
            info.geometry,
            white_level=info.white_level,
            max_megapixels=own.images.max_megapixels,
        )
        for file in find_images([images or _test_folder(info, settings)])
    )
    return export_bundle(model.bundle, folder, graph_format, pixels, model_version=model.version)


def _test_folder(info: "BundleInfo", settings: Settings) -> Path:

    category = settings.workspace.data / info.category
    folder = category / existing_name(category, "test")
    if not folder.is_dir():
        raise ExportError(
            f"{folder}: no such folder, so there are no images of '{info.category}' on which to "
            "compare the graph with the detector. Name some with --images."
        )
    return folder
