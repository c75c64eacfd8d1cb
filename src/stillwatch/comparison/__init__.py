"""Which of two detectors is better on the same test images, and how sure that is.

``comparison`` answers better, worse or not enough evidence; the paired statistics are beside it.
"""
