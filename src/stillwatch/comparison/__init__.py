"""Compare two detectors on the same test images: better, not worse, worse, or not enough evidence.

``comparison`` gives the answer; ``paired_bootstrap`` and ``paired_rates`` compute the intervals of
the differences.
"""
