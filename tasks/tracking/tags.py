"""The tags of MLflow runs and registered versions, and their values."""

FINGERPRINT = "stillwatch.fingerprint"
EVALUATION = "stillwatch.evaluation"
METHOD, SEED = "stillwatch.method", "stillwatch.seed"
"""Which detector a run trains, and with which seed."""
STAGE = "stillwatch.stage"
TRAINED, EVALUATED = "trained", "evaluated"
"""The values of ``STAGE``."""
REGION = "stillwatch.region"
"""Digest of the region of interest; a category without one has no such tag."""
PARENT = "mlflow.parentRunId"
KIND = "stillwatch.kind"
"""What a run is that trains no detector."""
REASON = "stillwatch.reason"
"""Why a run failed."""

SELECTED = "stillwatch.selected_on_test"
"""How the winner was chosen; tag of the winner's run."""
SPREAD = "stillwatch.spread"
"""The spread of the winner's figures over several seeds of its detector; tag of its run."""
DATA_VERSION = "stillwatch.data_version"
SYNTHETIC = "stillwatch.synthetic"
"""``true``: the figures of a run come from synthetic anomalies."""

THRESHOLD = "stillwatch.threshold"
REVIEW_THRESHOLD = "stillwatch.review_threshold"


def threshold_tags(reject: float, review: float) -> dict[str, str]:
    """The tags with both thresholds, as ``repr`` writes them: equal tags mean equal thresholds."""
    return {THRESHOLD: repr(reject), REVIEW_THRESHOLD: repr(review)}
