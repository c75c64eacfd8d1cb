"""Compare two detectors on the same test images: better, not worse, worse, or not enough evidence.

``comparison`` gives the answer; ``paired_bootstrap`` and ``paired_rates`` compute the intervals of
the differences.
"""

from stillwatch.comparison.comparison import Comparison, compare
from stillwatch.comparison.paired_bootstrap import Candidate, unseen

__all__ = ["Candidate", "Comparison", "compare", "unseen"]
