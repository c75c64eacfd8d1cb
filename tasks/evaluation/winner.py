"""Choose the winner of a retraining, and compare its figures with the floors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from stillwatch.calibration import chance_of_false_alarms
from stillwatch.detectors import detector_class
from stillwatch.errors import SettingsError
from stillwatch.settings import FloorSettings, RetrainSettings
from stillwatch.tasks.evaluation.notes import found_defects
from stillwatch.tasks.evaluation.result import FIGURE_NAMES, DetectorResult
from stillwatch.tasks.evaluation.seeds import by_detector, spread

_FEWEST_ANOMALIES = 10
"""With fewer, the recall says little."""
_SURELY_TOO_MANY = 0.01
"""Probability of as many false alarms, if test and calibration normals were exchangeable."""
SAME = 1e-9
"""Figures no farther apart than this are a tie."""


@dataclass(frozen=True)
class Choice:
    """The winner of a category, and the results that it was chosen from."""

    winner: DetectorResult
    competing: tuple[DetectorResult, ...]
    """With all seeds and the winner; the first seed of a detector comes before the others."""

    @property
    def seeds(self) -> list[DetectorResult]:
        """All results of the winner's detector."""
        return by_detector(self.competing)[self.winner.detector]

    @property
    def selected(self) -> str:
        """How the winner was chosen, a mark of figures that were used to choose."""
        return f"selected on test (best of {len(by_detector(self.competing))})"


def ensure_one_may_win(settings: RetrainSettings) -> None:
    """Refuse a retraining that cannot have a winner, before anything is trained.

    Raises:
        DetectorError: there is no such detector.
        SettingsError: no detector of ``retrain.detectors`` may win.
    """
    if not any(_is_admitted(name, settings) for name in settings.detectors):
        raise _none_may_win(settings.detectors)


def choose_winner(results: Sequence[DetectorResult], settings: RetrainSettings) -> Choice:
    """Choose the best detector by the mean of ``select_by`` over its seeds.

    Detectors that distil may win, others only with ``allow_baselines``. Ties go to the higher
    AUPRO, then to the faster detector. The winner is the first seed of the detector and not the
    best one: the best of several seeds on the test images would look better than it is.

    Args:
        results: of one category, at least one; the results of one detector are its seeds.

    Raises:
        SettingsError: no detector may win, or none has the figure ``select_by``.
    """
    competing = may_win(results, settings)
    if not competing:
        raise _none_may_win(by_detector(results))
    select_by = settings.select_by
    detectors = by_detector(competing).values()
    having = [seeds for seeds in detectors if spread(seeds, select_by) is not None]
    if not having:
        category = competing[0].category
        raise SettingsError(
            f"retrain.select_by is {select_by} and no detector of {category} has that figure: it "
            "needs normals and anomalies in test, and masks if it is a pixel figure. Choose "
            "another figure or add what is missing."
        )
    tied, _ = _narrowed(having, select_by)
    fastest = min(tied, key=lambda seeds: fmean(one.ms_per_image for one in seeds))
    return Choice(fastest[0], competing)


def may_win(
    results: Sequence[DetectorResult], settings: RetrainSettings
) -> tuple[DetectorResult, ...]:
    """The results of detectors that may win."""
    return tuple(one for one in results if _is_admitted(one.detector, settings))


def deciding_figure(competing: Iterable[DetectorResult], select_by: str) -> str:
    """Which figure set the winner apart: ``select_by``, after a tie ``aupro``, else the speed."""
    _, figure = _narrowed(list(by_detector(competing).values()), select_by)
    return "speed" if figure is None else FIGURE_NAMES[figure]


def below_floors(result: DetectorResult, floors: FloorSettings) -> tuple[str, ...]:
    """Why the figures of a detector are too bad for a champion, one phrase per reason."""
    asked = {"image_auroc": floors.image_auroc, "aupro": floors.aupro}
    if result.anomalies >= _FEWEST_ANOMALIES and not result.synthetic:
        asked["recall"] = floors.recall
    return tuple(
        _below_floor(result, figure, floor)
        for figure, floor in asked.items()
        if figure in result.metrics and result.metrics[figure] < floor
    )


def _below_floor(result: DetectorResult, figure: str, floor: float) -> str:
    if figure != "recall":
        return f"{figure} {result.metrics[figure]:.3f} is below its floor {floor}"
    share = "half" if floor == 0.5 else f"{100 * floor:g} %"
    return f"it {found_defects(result)}, fewer than {share} (retrain.floors.recall {floor})"


def too_many_false_alarms(result: DetectorResult) -> tuple[str, ...]:
    """Why the false alarms on good test images are too many for a champion; empty if they are not.

    Also a version that is surely better than the champion does not keep its promise then.
    """
    rejected = round(result.metrics.get("false_alarm_rate", 0.0) * result.normals)
    chance = chance_of_false_alarms(
        rejected, result.normals, n=result.n_calibration, rank=result.rank
    )
    if chance >= _SURELY_TOO_MANY:
        return ()
    return (
        f"it rejects {rejected} of {result.normals} good test images, more than chance allows "
        f"at alpha {result.alpha:g}",
    )


def lacking_evidence(result: DetectorResult) -> tuple[str, ...]:
    """Why the figures of a detector do not suffice for a promotion without a person."""
    reasons = []
    if result.synthetic:
        reasons.append("its figures come from synthetic anomalies")
    if result.test_normals_from != "test":
        reasons.append("there is no test/good")
    if "image_auroc" not in result.metrics:
        reasons.append("it has no image_auroc")
    return tuple(reasons)


def _is_admitted(detector: str, settings: RetrainSettings) -> bool:
    return settings.allow_baselines or detector_class(detector).distils


def _none_may_win(detectors: Iterable[str]) -> SettingsError:
    return SettingsError(
        f"a retraining of {', '.join(detectors)} can have no winner: these are baselines, and "
        "retrain.allow_baselines is false. Set it to true, or add a detector that is no baseline, "
        "such as reverse_distillation."
    )


def _narrowed(
    detectors: Sequence[Sequence[DetectorResult]], select_by: str
) -> tuple[Sequence[Sequence[DetectorResult]], str | None]:
    """The best detectors, and the figure that left one alone; None after a tie of all figures."""
    for figure in (select_by, "aupro"):
        detectors = _best(detectors, figure)
        if len(detectors) == 1:
            return detectors, figure
    return detectors, None


def _best(
    detectors: Sequence[Sequence[DetectorResult]], figure: str
) -> list[Sequence[DetectorResult]]:
    found = [spread(seeds, figure) for seeds in detectors]
    means = [-1.0 if one is None else one.mean for one in found]
    return [
        seeds for seeds, mean in zip(detectors, means, strict=True) if max(means) - mean <= SAME
    ]
