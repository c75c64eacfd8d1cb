"""Figures of a detector on labelled test images, with 95 % intervals.

``evaluation`` computes all of them; ``metrics`` has the image figures, by scikit-learn;
``pixel_metrics`` AUPRO and its relatives; ``bootstrap`` the intervals, from the ``counts``.
"""

from stillwatch.evaluation.evaluation import Evaluation, TestImages, evaluate

__all__ = ["Evaluation", "TestImages", "evaluate"]
