"""Visual inspection that learns from good parts only: images, detectors, thresholds."""

__version__ = "0.1.0"
