"""Who of a category's detectors wins a retraining, and whether its figures are good enough."""

from collections.abc import Sequence

from stillwatch.detectors import detector_class
from stillwatch.errors import SettingsError
from stillwatch.settings import FloorSettings, RetrainSettings
from tasks.detector_result import DetectorResult

SAME = 1e-9
"""Figures no farther apart than this are a tie."""


def eligible(
    results: Sequence[DetectorResult], settings: RetrainSettings
) -> Sequence[DetectorResult]:
    """Those that may win: all that distil, and the yardsticks where the settings say so.

    Raises:
        SettingsError: only yardsticks were trained and none may win.
    """
    able = [
        result
        for result in results
        if settings.allow_yardstick or detector_class(result.detector).distils
    ]
    if not able:
        raise SettingsError(
            f"only {', '.join(result.detector for result in results)} was trained, which distils "
            "nothing and may not win. Add a detector to retrain.detectors, or set "
            "retrain.allow_yardstick."
        )
    return able


def choose_winner(results: Sequence[DetectorResult], select_by: str) -> DetectorResult:
    """The best by one figure; ties go to the higher AUPRO, then to the faster detector.

    Raises:
        SettingsError: no detector has that figure.
    """
    having = [result for result in results if select_by in result.metrics]
    if not having:
        category = results[0].category if results else "the category"
        raise SettingsError(
            f"retrain.select_by is {select_by} and no detector of {category} has that figure: it "
            "needs normals and anomalies in test, and masks if it is a pixel figure. Choose "
            "another figure or add what is missing."
        )
    tied = _best(having, select_by)
    return min(_best(tied, "aupro"), key=lambda result: result.ms_per_image)


def below_floors(result: DetectorResult, floors: FloorSettings) -> tuple[str, ...]:
    """Why a detector may not become champion without a person, one phrase each."""
    reasons = []
    if result.synthetic:
        reasons.append("its figures come from synthetic anomalies")
    if result.test_normals_from != "test":
        reasons.append("there is no test/good")
    for figure, floor in (("image_auroc", floors.image_auroc), ("aupro", floors.aupro)):
        value = result.metrics.get(figure)
        if value is not None and value < floor:
            reasons.append(f"{figure} {value:.3f} is below its floor {floor}")
    if "image_auroc" not in result.metrics:
        reasons.append("it has no image_auroc")
    return tuple(reasons)


def _best(results: Sequence[DetectorResult], figure: str) -> list[DetectorResult]:
    values = [result.metrics.get(figure, -1.0) for result in results]
    return [r for r, value in zip(results, values, strict=True) if max(values) - value <= SAME]
