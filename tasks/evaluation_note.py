"""What an evaluation means, in sentences: on the run's page, in the report, on the terminal."""

from collections.abc import Iterable

from tasks.detector_result import DetectorResult, GroupResult


def evaluation_note(result: DetectorResult) -> str:
    """The description of a run, as Markdown."""
    lines = [
        f"**{result.detector}** on **{result.category}**, pixel figures at "
        f"{result.evaluation_size}×{result.evaluation_size}.",
        *threshold_sentences(result),
    ]
    if result.synthetic:
        lines.append(
            "**synthetic**: the category has no defect image, so the anomalies are made. These "
            "figures say that the detector works, not how well it will do on real defects."
        )
    if result.test_normals_from != "test":
        lines.append("There is no test/good: the validation normals stand in for it.")
    return "\n\n".join(lines)


def threshold_sentences(result: DetectorResult) -> list[str]:
    """What the threshold promises, on which condition, and what was seen of it."""
    sentences = [
        f"Rejects above {result.threshold:.6g}: of new good images at most {result.bound:.1%} on "
        f"average over calibration sets, {result.rate_95:.1%} with 95 % confidence for this one "
        f"({result.n_calibration} calibration normals, alpha {result.alpha:g}), if they are "
        "exchangeable with the calibration normals.",
        f"Rejected of the normals: {_rates(result)}.",
    ]
    if result.calibration_groups:
        sentences.append(
            f"The calibration normals are of {_counted(result.calibration_groups, 'group')}: "
            "images of a group resemble each other, so the bound rests on fewer independent "
            "images than it counts."
        )
    if result.false_alarms_by_group:
        groups = result.false_alarms_by_group.items()
        sentences.append(f"Rejected per group of test normals: {_per_group(groups)}.")
    return sentences


def _rates(result: DetectorResult) -> str:
    names = {"in_sample": "train", "held_out": "validation", "test": "test"}
    return ", ".join(
        f"{result.false_alarms[key]:.1%} of {name}"
        for key, name in names.items()
        if key in result.false_alarms
    )


def _per_group(groups: Iterable[tuple[str, GroupResult]]) -> str:
    return ", ".join(f"{name} {one.false_alarms} of {one.normals}" for name, one in groups)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
