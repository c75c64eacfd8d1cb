"""Exporting a bundle from a folder or from the registry."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stillwatch.bundle import BundleInfo, GraphFormat
from stillwatch.errors import ExportError
from stillwatch.flows.image_sets import chosen_categories, version_images
from stillwatch.flows.models import open_model
from stillwatch.images.decode import read_image
from stillwatch.images.split import PARTS
from stillwatch.inference.inspector import find_images
from stillwatch.inference.parity import Parity
from stillwatch.settings import Settings

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from stillwatch.export.quantized_export import Quantization
    from stillwatch.tasks.data.examine import ExaminedCategory


def export_model(
    source: str, folder: Path, graph_format: GraphFormat, images: Path | None, settings: Settings
) -> Parity:
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
    from stillwatch.export.export import export_bundle

    model = open_model(source, settings)
    info = model.bundle.info
    files = find_images([images or _test_folder(info, settings)])
    pixels = [
        read_image(
            file,
            size=info.image_size,
            white_level=info.white_level,
            max_megapixels=settings.images.max_megapixels,
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
        settings: name the registry and the image set, and, as ``gate.veto_margins``, by how much
            image AUROC and AUPRO may be lower than in float32.
        say: told when another process has to be waited for.

    Raises:
        ExportError: as ``export_quantized``, or the category's images are not those that the
            bundle was trained on.
        StillwatchError: as ``open_model`` and ``version_images``.
    """
    from stillwatch.export.quantized_export import NormalImages, export_quantized
    from stillwatch.tasks.evaluation.test_set import read_part, read_test_set

    bundle = open_model(source, settings).bundle
    category = _own_images(bundle.info, root, settings, say)
    train, validation, calibration = (read_part(category, part) for part in PARTS)
    return export_quantized(
        bundle,
        folder,
        NormalImages(train, validation, calibration),
        read_test_set(category, settings.evaluation),
        settings.evaluation,
        settings.gate.veto_margins.model_dump(include={"image_auroc", "aupro"}),
    )


def _own_images(
    info: BundleInfo, root: Path | None, settings: Settings, say: Callable[[str], None]
) -> "ExaminedCategory":
    """The very images that a bundle was trained and calibrated on, of its size."""
    from stillwatch.tasks.data.examine import examine_category

    images = {"size": info.image_size, "white_level": info.white_level}
    own = settings.model_copy(update={"images": settings.images.model_copy(update=images)})
    data = version_images(own, root=root, categories=[info.category], say=say)
    (name,) = chosen_categories(data, [info.category])
    version = data.categories[name]
    if version.digest != info.provenance.get("category_digest"):
        raise ExportError(
            f"{data.root / name}: is not what the bundle was trained on (data version "
            f"{info.provenance.get('data_version')}). Bring that version back with 'stillwatch "
            "data checkout', or retrain."
        )
    return examine_category(version, root=data.root, settings=own)


def _test_folder(info: BundleInfo, settings: Settings) -> Path:
    folder = settings.workspace.path / settings.workspace.image_set / info.category / "test"
    if not folder.is_dir():
        raise ExportError(
            f"{folder}: no such folder, so there are no images of '{info.category}' on which to "
            "compare the graph with the detector. Name some with --images."
        )
    return folder
