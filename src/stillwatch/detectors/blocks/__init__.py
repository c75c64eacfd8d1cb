"""Layers, losses and maps that several detectors share.

A method's file in ``stillwatch.detectors`` holds what is its own; what two of them need is here.
"""
