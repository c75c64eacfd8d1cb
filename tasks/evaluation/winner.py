"""Who of a category's detectors wins a retraining, and whether its figures are good enough."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from stillwatch.detectors import detector_class
from stillwatch.errors import SettingsError
from stillwatch.settings import FloorSettings, RetrainSettings
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.seeds import by_detector, spread

SAME = 1e-9
"""Figures no farther apart than this are a tie."""


def eligible(
    results: Sequence[DetectorResult], settings: RetrainSettings
) -> Sequence[DetectorResult]:
    """Those that may win: all that distil, and the baselines where the settings say so.

    Raises:
        SettingsError: all of them are baselines and none may win.
    """
    able = [one for one in results if _may_win(one.detector, settings)]
    if not able:
        raise _none_may_win(by_detector(results))
    return able


def ensure_one_may_win(settings: RetrainSettings) -> None:
    """Refuse a retraining that could have no winner, before anything is trained.

    Raises:
        DetectorError: there is no such detector.
        SettingsError: all of ``retrain.detectors`` are baselines and none may win.
    """
    if not any(_may_win(name, settings) for name in settings.detectors):
        raise _none_may_win(settings.detectors)


def choose_winner(results: Sequence[DetectorResult], select_by: str) -> DetectorResult:
    """The first seed of the best detector by one figure, which is the mean over its seeds.

    Ties go to the higher AUPRO, then to the faster detector. Which seed goes into production is
    settled before the test images are looked at: it is the first, not the luckiest.

    Args:
        results: of one category, at least one; those of one detector are its seeds.
        select_by: the figure.

    Raises:
        SettingsError: no detector has that figure.
    """
    detectors = by_detector(results).values()
    having = [seeds for seeds in detectors if spread(seeds, select_by) is not None]
    if not having:
        category = results[0].category if results else "the category"
        raise SettingsError(
            f"retrain.select_by is {select_by} and no detector of {category} has that figure: it "
            "needs normals and anomalies in test, and masks if it is a pixel figure. Choose "
            "another figure or add what is missing."
        )
    tied = _best(_best(having, select_by), "aupro")
    return min(tied, key=lambda seeds: fmean(one.ms_per_image for one in seeds))[0]


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


def _may_win(detector: str, settings: RetrainSettings) -> bool:
    return settings.allow_baselines or detector_class(detector).distils


def _none_may_win(detectors: Iterable[str]) -> SettingsError:
    return SettingsError(
        f"a retraining of {', '.join(detectors)} has no winner, for what distils nothing may not "
        "win. Add a detector that distils, such as stfpm, or set retrain.allow_baselines."
    )


def _best(
    detectors: Sequence[Sequence[DetectorResult]], figure: str
) -> list[Sequence[DetectorResult]]:
    found = [spread(seeds, figure) for seeds in detectors]
    means = [-1.0 if one is None else one.mean for one in found]
    return [
        seeds for seeds, mean in zip(detectors, means, strict=True) if max(means) - mean <= SAME
    ]
