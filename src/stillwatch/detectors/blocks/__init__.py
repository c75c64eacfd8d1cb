"""Layers, losses, augmentations and map arithmetic that several detectors share.

A method's own code is in its module in ``stillwatch.detectors``.
"""
