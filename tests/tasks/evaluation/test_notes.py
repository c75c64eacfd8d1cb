"""What is said of a threshold, and when."""

import numpy as np
from made_results import result
from scipy.stats import beta

from stillwatch.calibration import calibrate
from stillwatch.tasks.evaluation.notes import evaluation_note, promises, threshold_sentences


def test_a_threshold_states_both_bounds_and_their_condition() -> None:
    (promise, seen) = threshold_sentences(
        result(false_alarms={"in_sample": 0.01, "held_out": 0.125, "test": 0.1, "test_ci": (0, 1)})
    )
    assert "at most 5.0% on average over calibration sets" in promise
    assert "14.0% with 95 % confidence" in promise
    assert "19 calibration normals" in promise
    assert "exchangeable" in promise
    assert seen == "Rejected of the normals: 1.0% of train, 12.5% of validation, 10.0% of test."


def test_a_promise_in_plain_words_is_what_calibration_guarantees() -> None:
    calibration = calibrate(np.arange(64), alpha_reject=0.05, alpha_review=0.15)
    rejected, not_passed, condition = promises(calibration)
    # With 64 scores the thresholds are the 62nd and the 56th: 3 and 9 of 65 are above.
    assert "about 4.6 will be rejected" in rejected
    assert "these 64 calibration images" in rejected
    assert f"with 95 % confidence, at most {100 * beta.ppf(0.95, 3, 62):.1f}" in rejected
    assert "About 13.8 of 100 will not pass" in not_passed
    assert f"at most {100 * beta.ppf(0.95, 9, 56):.1f}" in not_passed
    assert "like the calibration images" in condition


def test_groups_are_counted_and_their_false_alarms_named() -> None:
    group = {"normals": 10, "false_alarms": 3, "rate": 0.3, "interval": (0.07, 0.65)}
    sentences = threshold_sentences(
        result(calibration_groups=4, false_alarms_by_group={"camera-2": group})
    )
    assert any("of 4 groups" in sentence for sentence in sentences)
    assert "camera-2 3 of 10" in sentences[-1]


def test_what_makes_figures_weaker_is_said_beside_them() -> None:
    assert "synthetic" not in evaluation_note(result())
    assert "synthetic" in evaluation_note(result(synthetic=True))
    assert "validation normals stand in" in evaluation_note(result(test_normals_from="validation"))
