"""The user's images: find, decode, describe, split and store them, without torch.

``layout`` finds the files of an image set (``mask_names`` the masks), ``source_layouts`` those of a
folder in another layout, ``decode`` and ``masks`` read them, ``manifest`` describes each,
``region`` is where defects count, ``split`` assigns the normals to train, validation and
calibration, ``store`` keeps the pixels.
"""
