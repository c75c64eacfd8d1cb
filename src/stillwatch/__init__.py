"""Visual inspection that learns from images of good parts only.

The ground floor: image sets (``images``), detectors and their training (``detectors``,
``training``), thresholds (``calibration``), bundles (``bundle``) and inspection (``inference``).
"""

__version__ = "0.1.0"
