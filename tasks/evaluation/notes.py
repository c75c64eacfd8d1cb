"""Explain an evaluation in sentences, for the run's page, the report and the terminal."""

from collections.abc import Mapping

from stillwatch.calibration import Calibration
from stillwatch.tasks.evaluation.result import DetectorResult, FeedbackResult, GroupResult
from stillwatch.text import counted, printable, some_of

_NAMED = 5
"""Most files or groups that a sentence names."""


def evaluation_note(result: DetectorResult) -> str:
    """The description of a run, as Markdown."""
    sentences = [
        f"**{result.detector}** on **{result.category}**, pixel figures at "
        f"{result.evaluation_size} pixels on the longer side.",
        *threshold_sentences(result),
        *caveats(result),
    ]
    if result.feedback is not None:
        sentences.append(feedback_sentence(result.feedback))
    return "\n\n".join(sentences)


def caveats(result: DetectorResult) -> list[str]:
    """The limits of the figures."""
    sentences = []
    if result.synthetic:
        sentences.append(
            "Synthetic anomalies: the category has no defect image, so defects were painted on "
            "good ones. The figures show that the detector works, not how well it will find real "
            "defects."
        )
    elif result.anomalies and "aupro" not in result.metrics:
        sentences.append(
            "There are no masks of the defects, so it is unknown whether the marked "
            "regions are the right ones: pixel figures and AUPRO are missing."
        )
    if result.outside_region:
        paths = result.outside_region
        sentences.append(
            f"Test anomalies whose whole defect is outside the region of interest: {len(paths)} "
            f"({some_of(list(map(printable, paths)), _NAMED)}). They are in no figure: nothing in "
            "the region is wrong with them."
        )
    if result.test_normals_from != "test":
        sentences.append("There is no test/good: the validation normals stand in for it.")
    groups = (*result.normals_by_group.values(), *result.anomalies_by_group.values())
    if any(group.images > 1 for group in groups):
        sentences.append(
            "All 95 % intervals of figures of images count the images as independent. Several "
            "test images are of one group and resemble each other, so that the intervals are too "
            "narrow."
        )
    if result.intervals.get("false_alarm_rate", (0, 1))[0] > result.rate_95:
        sentences.append(
            f"{result.metrics['false_alarm_rate']:.1%} of the good test parts are rejected, more "
            "than was promised: they differ from the calibration images, perhaps in light or "
            "camera."
        )
    return sentences


def feedback_sentence(feedback: FeedbackResult) -> str:
    """The verdicts of the corrected anomalies."""
    verdicts = [one.verdict for one in feedback.images]
    return (
        f"Anomalies whose verdict a person corrected: {verdicts.count('reject')} of "
        f"{len(verdicts)} rejected, {verdicts.count('review')} set aside for review, "
        f"{verdicts.count('pass')} passed unseen. They were chosen by their scores: no other "
        "figure and no comparison has them in it."
    )


def threshold_sentences(result: DetectorResult) -> list[str]:
    """The bound of the threshold, its condition, and the observed false-alarm rates."""
    return [
        f"Rejects above {result.threshold:.6g}: of new good images at most {result.bound:.1%} on "
        f"average over calibration sets, {result.rate_95:.1%} with 95 % confidence for this one "
        f"({result.n_calibration} calibration normals, alpha {result.alpha:g}), if they are "
        "exchangeable with the calibration normals.",
        *_repeat_sentences(result.n_calibration, result.calibration_repeats),
        f"Rejected of the normals: {_rates(result)}.",
        *group_sentences(result),
    ]


def group_sentences(result: DetectorResult) -> list[str]:
    """What groups of images mean for the bound, and how many groups have a rejected image."""
    sentences = []
    if 0 < result.calibration_groups < result.n_calibration:
        sentences.append(
            f"The {result.n_calibration} calibration normals are of "
            f"{counted(result.calibration_groups, 'group')}. Images of one group resemble each "
            "other and are not exchangeable with images of a new group, for which the bound does "
            "not hold."
        )
    if result.normals_by_group:
        sentences.append(_rejected_groups("normals", result.normals_by_group, _NAMED))
    if result.anomalies_by_group:
        sentences.append(_rejected_groups("anomalies", result.anomalies_by_group, 0))
    return sentences


def promise(result: DetectorResult) -> str:
    """The bound of the threshold in one line."""
    repeats = result.calibration_repeats
    said = (
        f"of 100 new good parts {_about(repeats)} {_of_100(result.bound)} are rejected (at most "
        f"{_of_100(result.rate_95)}, with 95 % confidence)"
    )
    if not repeats:
        return said
    return (
        f"{said}; {repeats} of the {result.n_calibration} calibration images repeat another image "
        "and do not count"
    )


def found_defects(result: DetectorResult) -> str:
    """How many defects of the test are rejected, for example ``finds 3 of 20 defects``."""
    if not result.anomalies:
        return "was tested with no defect"
    kind = "synthetic defects" if result.synthetic else "defects"
    return f"finds {rejected_anomalies(result)} of {result.anomalies} {kind}"


def rejected_anomalies(result: DetectorResult) -> int:
    """How many test anomalies are rejected, of at least one."""
    return round(result.metrics["recall"] * result.anomalies)


def tested(result: DetectorResult) -> str:
    """The verdicts on the test images in one line."""
    rejected = round(result.metrics["false_alarm_rate"] * result.normals)
    return (
        f"{found_defects(result)}{_not_found(result)}; rejects {rejected} of {result.normals} good "
        f"{result.test_normals_from} parts"
    )


def promises(calibration: Calibration, groups: int = 0, repeats: int = 0) -> list[str]:
    """The bounds of both thresholds for good parts, without technical terms.

    Args:
        calibration: the thresholds.
        groups: number of groups that the calibration images are of; 0 without a group pattern.
        repeats: number of calibration images that do not count (``calibration_repeats``).
    """
    reject = calibration.reject.without_repeats(repeats)
    review = calibration.review.without_repeats(repeats)
    about, images = _about(repeats), calibration.reject.n
    sentences = [
        f"Of 100 new good parts {about} {_of_100(reject.bound)} will be rejected, on average. With "
        f"these {reject.n} calibration images we can promise, with 95 % confidence, at most "
        f"{_of_100(reject.rate_95)}; more calibration images bring the promise nearer to the "
        "average.",
        f"{about.capitalize()} {_of_100(review.bound)} of 100 will not pass: the rejected ones, "
        "and those that are set aside for a person to review. Here we can promise at most "
        f"{_of_100(review.rate_95)}.",
        "Both hold for good parts like the calibration images: the same product, light and "
        "camera. Nothing is promised about defective parts.",
    ]
    if 0 < groups < images:
        sentences.append(
            f"Nor is anything promised about parts of a new group: the {images} calibration "
            f"images are of {counted(groups, 'group')}, images of one group resemble each other, "
            "and those of a new one may differ from all of them."
        )
    return sentences + _repeat_sentences(images, repeats)


def _about(repeats: int) -> str:
    """The word before a rate; where images do not count, only a limit of the average is known."""
    return "up to" if repeats else "about"


def _repeat_sentences(images: int, repeats: int) -> list[str]:
    if not repeats:
        return []
    return [
        f"Of the {images} calibration images {repeats} show the same as another, or as one that "
        f"was learnt from, and do not count: the promise is what the other {images - repeats} "
        "give at worst."
    ]


def _not_found(result: DetectorResult) -> str:
    """What happens to the defects that are not rejected, in brackets; empty if all are."""
    if not result.anomalies:
        return ""
    review = result.reviewed_anomalies
    unseen = result.anomalies - rejected_anomalies(result) - review
    said = [
        f"{count} {one if count == 1 else several} {where}"
        for count, one, several, where in (
            (review, "goes", "go", "to review"),
            (unseen, "passes", "pass", "unseen"),
        )
        if count
    ]
    return f" ({', '.join(said)})" if said else ""


def _of_100(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def _rates(result: DetectorResult) -> str:
    names = {"in_sample": "train", "validation": "validation", "test": "test"}
    return ", ".join(
        f"{result.false_alarms[key]:.1%} of {name}"
        for key, name in names.items()
        if key in result.false_alarms
    )


def _rejected_groups(kind: str, groups: Mapping[str, GroupResult], most_named: int) -> str:
    """How many groups of test images have a rejected image, and those with the largest share."""
    rejected = {name: one for name, one in groups.items() if one.rejected}
    ordered = sorted(rejected.items(), key=lambda group: -group[1].rejected / group[1].images)
    worst = [f"{name} {one.rejected} of {one.images}" for name, one in ordered]
    return (
        f"Of {counted(len(groups), 'group')} of test {kind} {len(rejected)} have a rejected image"
        + (f": {some_of(worst, most_named)}." if worst and most_named else ".")
    )
