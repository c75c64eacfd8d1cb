"""Frozen pretrained networks that detectors learn from.

``networks`` builds a teacher from a weight file, ``weights`` finds the file and checks its digest.
"""
