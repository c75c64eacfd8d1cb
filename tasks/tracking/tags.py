"""How runs and registered versions are tagged with their thresholds."""

THRESHOLD = "stillwatch.threshold"
REVIEW_THRESHOLD = "stillwatch.review_threshold"


def threshold_tags(reject: float, review: float) -> dict[str, str]:
    """The tags that say both thresholds in all their digits.

    Equal tags mean equal thresholds.
    """
    return {THRESHOLD: repr(reject), REVIEW_THRESHOLD: repr(review)}
