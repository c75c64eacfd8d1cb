"""How good a detector is on labelled test images.

``metrics`` and ``pixel_metrics`` are pure functions of arrays, ``bootstrap`` gives their
intervals, ``evaluation`` puts both together for a test set.
"""
