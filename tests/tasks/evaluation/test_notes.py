"""What is said of a threshold, and when."""

import numpy as np
from made_results import result
from scipy.stats import beta

from stillwatch.calibration import calibrate
from stillwatch.tasks.evaluation.notes import (
    evaluation_note,
    found_defects,
    promise,
    promises,
    threshold_sentences,
)
from stillwatch.tasks.evaluation.notes import tested as verdicts  # pytest collects test*


def test_a_threshold_states_both_bounds_and_their_condition() -> None:
    (promise, seen) = threshold_sentences(
        result(
            false_alarms={"in_sample": 0.01, "validation": 0.125, "test": 0.1, "test_ci": (0, 1)}
        )
    )
    assert "at most 5.0% on average over calibration sets" in promise
    assert "14.0% with 95 % confidence" in promise
    assert "19 calibration normals" in promise
    assert "exchangeable" in promise
    assert seen == "Rejected of the normals: 1.0% of train, 12.5% of validation, 10.0% of test."


def test_the_number_of_defects_that_are_found_is_said_with_their_kind() -> None:
    metrics = {"recall": 0.15, "false_alarm_rate": 0.0}
    assert found_defects(result(metrics=metrics)) == "finds 3 of 20 defects"
    made = result(metrics=metrics, synthetic=True)
    assert found_defects(made) == "finds 3 of 20 synthetic defects"
    assert found_defects(result(anomalies=0, metrics={})) == "was tested with no defect"


def test_the_defects_that_are_not_rejected_are_counted() -> None:
    figures = {"recall": 0.15, "false_alarm_rate": 0.05}
    good = "; rejects 1 of 20 good test parts"
    for reviewed, said in {
        5: "finds 3 of 20 defects (5 go to review, 12 pass unseen)",
        17: "finds 3 of 20 defects (17 go to review)",
        0: "finds 3 of 20 defects (17 pass unseen)",
    }.items():
        assert verdicts(result(metrics=figures, reviewed_anomalies=reviewed)) == said + good
    every = result(metrics=figures | {"recall": 1.0})
    assert verdicts(every) == "finds 20 of 20 defects" + good
    without = result(metrics=figures, anomalies=0)
    assert verdicts(without) == "was tested with no defect" + good


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


def test_the_promise_says_which_calibration_images_do_not_count() -> None:
    calibration = calibrate(np.arange(64), alpha_reject=0.05, alpha_review=0.15)
    rejected, not_passed, _, repeated = promises(calibration, repeats=30)
    # 3 and 9 of the 34 other images are above the thresholds, and a new one is as any of the 35.
    assert f"up to {100 * 3 / 35:.1f} will be rejected" in rejected
    assert "these 34 calibration images" in rejected
    assert f"at most {100 * beta.ppf(0.95, 3, 32):.1f}" in rejected
    assert f"Up to {100 * 9 / 35:.1f} of 100" in not_passed
    assert "Of the 64 calibration images 30 show the same as another" in repeated
    short = promise(result(n_calibration=64, calibration_repeats=30, bound=3 / 35, rate_95=0.175))
    assert short == (
        "of 100 new good parts up to 8.6 are rejected (at most 17.5, with 95 % confidence); 30 of "
        "the 64 calibration images repeat another image and do not count"
    )
    long = threshold_sentences(result(calibration_repeats=5))
    assert "Of the 19 calibration images 5 show the same as another" in long[1]


def test_groups_are_counted_and_their_false_alarms_named() -> None:
    groups = {f"camera-{number}": {"images": 10, "rejected": number} for number in range(4)}
    sentences = threshold_sentences(
        result(calibration_groups=4, normals_by_group=groups, anomalies_by_group=groups)
    )
    assert "The 19 calibration normals are of 4 groups." in sentences[-3]
    assert "a new group, for which the bound does not hold" in sentences[-3]
    assert sentences[-1] == "Of 4 groups of test anomalies 3 have a rejected image."
    assert sentences[-2] == (
        "Of 4 groups of test normals 3 have a rejected image: camera-3 3 of 10, camera-2 2 of 10, "
        "camera-1 1 of 10."
    )
    quiet = threshold_sentences(result(normals_by_group={"camera-0": groups["camera-0"]}))
    assert quiet[-1] == "Of 1 group of test normals 0 have a rejected image."


def test_no_promise_is_made_about_a_new_group() -> None:
    calibration = calibrate(np.arange(64), alpha_reject=0.05, alpha_review=0.15)
    of_groups = promises(calibration, 8)
    assert of_groups[:3] == promises(calibration) == promises(calibration, 64)
    assert "about parts of a new group: the 64 calibration images are of 8 groups" in of_groups[3]
    with_own_group_each = threshold_sentences(result(calibration_groups=19))
    assert with_own_group_each == threshold_sentences(result())


def test_intervals_of_images_of_one_group_are_said_to_be_too_narrow() -> None:
    each_its_own = {"a": {"images": 1, "rejected": 0}, "b": {"images": 1, "rejected": 1}}
    assert "too narrow" not in evaluation_note(result(normals_by_group=each_its_own))
    two = {"a": {"images": 2, "rejected": 0}}
    assert "too narrow" in evaluation_note(result(normals_by_group=each_its_own | two))
    assert "too narrow" in evaluation_note(result(anomalies_by_group=two))


def test_no_defect_in_the_region_is_no_lack_of_masks() -> None:
    note = evaluation_note(result(anomalies=0, metrics={}, outside_region=["test/hole/000.png"]))
    assert "is outside the region of interest: 1 (test/hole/000.png)" in note
    assert "no masks" not in note


def test_what_makes_figures_weaker_is_said_beside_them() -> None:
    assert "Synthetic" not in evaluation_note(result())
    assert "Synthetic anomalies" in evaluation_note(result(synthetic=True))
    assert "validation normals stand in" in evaluation_note(result(test_normals_from="validation"))
    paths = tuple(f"test/dent/{number}.png" for number in range(7))
    outside = evaluation_note(result(outside_region=paths))
    assert "outside the region of interest: 7 (test/dent/0.png," in outside
    assert "test/dent/4.png and 2 more)" in outside
    assert "region of interest" not in evaluation_note(result())
