"""Exporting a bundle from a folder or from the registry."""

from pathlib import Path

import numpy as np

from flows.inspection import open_model
from stillwatch.bundle import BundleInfo, GraphFormat
from stillwatch.errors import ExportError
from stillwatch.images.decode import read_image
from stillwatch.inspection import find_images
from stillwatch.parity import Parity
from stillwatch.settings import Settings


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
    from stillwatch.export import export_bundle

    bundle = open_model(source, settings).bundle
    info = bundle.info
    files = find_images([images or _test_folder(info, settings)])
    pixels = [read_image(x, size=info.image_size, white_level=info.white_level) for x in files]
    return export_bundle(bundle, folder, graph_format, np.stack(pixels))


def _test_folder(info: BundleInfo, settings: Settings) -> Path:
    folder = settings.workspace.path / settings.workspace.image_set / info.category / "test"
    if not folder.is_dir():
        raise ExportError(
            f"{folder}: no such folder, so there are no images of '{info.category}' on which to "
            "compare the graph with the detector. Name some with --images."
        )
    return folder
