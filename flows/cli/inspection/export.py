"""``stillwatch export``: write a bundle for machines without torch."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from stillwatch.errors import ExportError
from stillwatch.flows.cli.console import console, print_json, say
from stillwatch.flows.cli.options import AsJson, CommandContext
from stillwatch.settings import Settings

if TYPE_CHECKING:  # these import scipy, torch or MLflow, which takes seconds
    from stillwatch.bundle import BundleInfo, GraphFormat
    from stillwatch.export.quantized_export import Quantization
    from stillwatch.inference.parity import Parity
    from stillwatch.tasks.data.examine import ExaminedCategory


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
            help="Images on which the graph must give the same results as the detector.",
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

    Refused unless scores, maps and verdicts equal those of the detector.
    """
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


def export_model(
    source: str, folder: Path, graph_format: "GraphFormat", images: Path | None, settings: Settings
) -> "Parity":
    """Export a bundle, compared on real images.

    Args:
        source: a bundle folder, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        folder: new or empty.
        graph_format: ``onnx`` or ``openvino``.
        images: an image file or a folder of images; None: the category's test images in the
            settings' image set.
        settings: name the registry and the image set.

    Raises:
        ExportError: as ``export_bundle``, or there are no images to compare on.
        ImageError: an image cannot be read.
        StillwatchError: as ``open_model``.
    """
    import numpy as np

    from stillwatch.export.export import export_bundle
    from stillwatch.flows.models import open_model
    from stillwatch.images.decode import read_image
    from stillwatch.inference.inspector import find_images

    model = open_model(source, settings)
    info = model.bundle.info
    own = settings.for_category(info.category)
    files = find_images([images or _test_folder(info, settings)])
    pixels = [
        read_image(
            file,
            size=info.image_size,
            white_level=info.white_level,
            max_megapixels=own.images.max_megapixels,
        )
        for file in files
    ]
    return export_bundle(
        model.bundle, folder, graph_format, np.stack(pixels), model_version=model.version
    )


def export_quantized_model(
    source: str,
    folder: Path,
    *,
    root: Path | None,
    settings: Settings,
    say: Callable[[str], None],
) -> "Quantization":
    """Export a bundle in ONNX with INT8 convolutions, calibrated and judged on its own images.

    Args:
        source: a bundle folder, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        folder: new or empty.
        root: the image set that has the bundle's category; None: the settings' own.
        settings: of all categories; they name the registry and the image set, and, as
            ``gate.veto_margins``, by how much image AUROC and AUPRO may be lower than in float32.
        say: called with a message when another process has to be waited for.

    Raises:
        ExportError: as ``export_quantized``, or the category's images are not those that the
            bundle was trained on.
        StillwatchError: as ``open_model`` and ``version_images``.
    """
    from stillwatch.export.quantized_export import NormalImages, export_quantized
    from stillwatch.flows.models import open_model
    from stillwatch.images.split import PARTS
    from stillwatch.tasks.evaluation.test_set import read_part, read_test_set

    bundle = open_model(source, settings).bundle
    own = settings.for_category(bundle.info.category)
    category = _own_images(bundle.info, root, settings, say)
    train, validation, calibration = (read_part(category, part) for part in PARTS)
    return export_quantized(
        bundle,
        folder,
        NormalImages(train, validation, calibration),
        read_test_set(category, own.evaluation),
        own.evaluation,
        own.gate.veto_margins.model_dump(include={"image_auroc", "aupro"}),
    )


def _own_images(
    info: "BundleInfo", root: Path | None, settings: Settings, say: Callable[[str], None]
) -> "ExaminedCategory":
    """The images that a bundle was trained and calibrated on, at the size of the bundle."""
    from stillwatch.flows.image_sets import chosen_categories, version_images
    from stillwatch.tasks.data.examine import examine_category

    data = version_images(settings, root=root, categories=[info.category], say=say)
    (name,) = chosen_categories(data, [info.category])
    version = data.categories[name]
    if version.training_digest != info.provenance.get("training_digest"):
        raise ExportError(
            f"{data.root / name}: is not what the bundle was trained on (data version "
            f"{info.provenance.get('data_version')}). Bring that version back with 'stillwatch "
            "data checkout', or retrain."
        )
    own = settings.for_category(name)
    images = {"size": info.image_size, "white_level": info.white_level}
    own = own.model_copy(update={"images": own.images.model_copy(update=images)})
    return examine_category(version, root=data.root, settings=own)


def _test_folder(info: "BundleInfo", settings: Settings) -> Path:
    folder = settings.workspace.path / settings.workspace.image_set / info.category / "test"
    if not folder.is_dir():
        raise ExportError(
            f"{folder}: no such folder, so there are no images of '{info.category}' on which to "
            "compare the graph with the detector. Name some with --images."
        )
    return folder
