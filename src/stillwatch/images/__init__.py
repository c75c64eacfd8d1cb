"""The user's images: find, decode, describe, split and store them, without torch.

``layout`` finds the files of an image set (``mask_names`` the masks), ``source_layouts`` those of a
folder in another layout, ``decode`` and ``masks`` read them, ``manifest`` describes each,
``region`` is where defects count, ``split`` assigns the normals to train, validation and
calibration, ``store`` keeps the pixels.
"""

from stillwatch.images.decode import DecodedImage, decode_image, read_image
from stillwatch.images.layout import Category, ImageFile, category_folders, scan_category
from stillwatch.images.manifest import ImageFacts, Manifest, build_manifest
from stillwatch.images.masks import read_mask
from stillwatch.images.region import Region
from stillwatch.images.split import assign, read_split_file, write_split_file
from stillwatch.images.store import ImageStore, StoreWriter

__all__ = [
    "Category",
    "DecodedImage",
    "ImageFacts",
    "ImageFile",
    "ImageStore",
    "Manifest",
    "Region",
    "StoreWriter",
    "assign",
    "build_manifest",
    "category_folders",
    "decode_image",
    "read_image",
    "read_mask",
    "read_split_file",
    "scan_category",
    "write_split_file",
]
