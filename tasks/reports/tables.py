"""The tables of a retraining's report, with every cell as text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillwatch.calibration import Threshold, Verdict, clopper_pearson
from stillwatch.evaluation.bootstrap import Interval
from stillwatch.tasks.evaluation.result import FIGURE_NAMES, FeedbackResult
from stillwatch.tasks.evaluation.seeds import by_detector, spreads
from stillwatch.tasks.reports.record import DetectorRecord, RetrainingRecord, WinnerRecord
from stillwatch.tasks.reports.sentences import outcome
from stillwatch.tasks.validation.page import counts

_ABSENT = "–"
_ROLES = {
    "train": "the detectors learn from these",
    "validation": "watched during training, not learnt from",
    "calibration": "set the thresholds; nothing else sees them",
    "test": "the figures are measured on these; no training and no threshold sees them",
    "feedback": "anomalies whose verdict a person corrected; they have figures of their own",
    "duplicate": "the same as another image; not used",
    "unassigned": "not in the split; not used",
}


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell names the row, the second line of a cell is small print."""

    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: frozenset[int] = frozenset()
    """Indices of the columns with figures, which are aligned to the right."""


def folders(record: RetrainingRecord) -> Table:
    """Images per folder."""
    rows = [(one.folder, str(one.images), one.note) for one in counts(record.validation)]
    return Table("Images by folder", ("folder", "images", "of these"), rows, frozenset({1}))


def split(record: RetrainingRecord) -> Table:
    """Images per part, and the use of the part."""
    parts = record.validation.facts["part"]
    rows = [(part, str(parts[part]), role) for part, role in _ROLES.items() if part in parts]
    return Table("Images by use", ("part", "images", "used for"), rows, frozenset({1}))


def checks(record: RetrainingRecord) -> Table:
    """The checks with failures."""
    rows = [
        (check.title, check.tally, check.severity, check.advice)
        for check in record.validation.outcomes
        if check.failures
    ]
    head = ("check", "found", "severity", "what to do")
    return Table("Failed checks", head, rows, frozenset({1}))


def trained(record: RetrainingRecord) -> Table:
    """The outcome of each candidate."""
    head = ("detector", "outcome", "teacher", "image size", "seed", "epochs")
    rows = [(one.name, outcome(one), *_training(one)) for one in record.detectors]
    return Table("Detectors", head, rows, frozenset({3, 4, 5}))


def changed_settings(record: RetrainingRecord) -> Table:
    """The settings that differ from the defaults."""
    rows = [(name, _value(value)) for name, value in sorted(record.changed_settings.items())]
    return Table("Settings that differ from the defaults", ("setting", "value"), rows)


def comparison(record: RetrainingRecord) -> Table:
    """The figures of all evaluated candidates; figures that none has are left out."""
    results = {one.name: one.result for one in record.detectors if one.result is not None}
    shown = [name for name in FIGURE_NAMES if any(name in r.metrics for r in results.values())]
    winner = None if record.winner is None else record.winner.result.run_id
    rows = [
        (
            f"{detector}\nwinner" if r.run_id == winner else detector,
            *(_with_interval(r.metrics.get(name), r.intervals.get(name)) for name in shown),
        )
        for detector, r in results.items()
    ]
    head = ("detector", *(FIGURE_NAMES[name] for name in shown))
    columns = frozenset(range(1, len(head)))
    return Table("Figures on the test images, each with its 95 % interval", head, rows, columns)


def over_seeds(record: RetrainingRecord) -> Table:
    """Mean and spread of each detector's figures over its seeds; no rows for a single seed."""
    results = by_detector(one.result for one in record.detectors if one.result is not None)
    found = {detector: spreads(seeds) for detector, seeds in results.items()}
    shown = [name for name in FIGURE_NAMES if any(name in one for one in found.values())]
    rows = [
        (
            f"{detector}\n{len(results[detector])} seeds",
            *(str(one[name]) if name in one else _ABSENT for name in shown),
        )
        for detector, one in found.items()
        if one
    ]
    head = ("detector", *(FIGURE_NAMES[name] for name in shown))
    columns = frozenset(range(1, len(head)))
    return Table("Mean over the seeds ± half their range", head, rows, columns)


def against_champion(winner: WinnerRecord) -> Table | None:
    """Figures and latency of winner and champion on the same images; None without a comparison."""
    found = winner.comparison
    if "differences" not in found:
        return None
    rows = [
        _difference(name, found["differences"][name], decides=name == found["select_by"])
        for name in FIGURE_NAMES
        if name in found["differences"]
    ]
    rows.append(_latency(found["latency"], vetoes="latency" in found["vetoes"]))
    head = (
        "figure",
        f"version {found['challenger']}",
        f"champion, version {found['champion']}",
        "difference",
        "may be worse by",
        "role",
    )
    caption = (
        f"Both on the same {found['normals']} normals and {found['anomalies']} anomalies, the "
        "difference with its 95 % interval; of the latency it is that of the new version"
    )
    return Table(caption, head, rows, frozenset({1, 2, 3, 4}))


def thresholds(winner: WinnerRecord) -> Table:
    """Both thresholds: their bounds for good parts, and the rates on the test normals."""
    calibration, repeats = winner.bundle.calibration, winner.result.calibration_repeats
    review, reject = (
        threshold.without_repeats(repeats) for threshold in (calibration.review, calibration.reject)
    )
    normals = [row["verdict"] for row in winner.rows if not row["label"]]
    not_passed = len(normals) - normals.count("pass")
    rows = [
        _promise("review or reject", review, not_passed, len(normals)),
        _promise("reject", reject, normals.count("reject"), len(normals)),
    ]
    head = (
        "verdict",
        "score above",
        "good parts, on average",
        "promised with 95 % confidence",
        "seen on good test parts",
    )
    return Table("A score up to both thresholds is a pass", head, rows, frozenset({1, 2, 3, 4}))


def recall_by_defect(winner: WinnerRecord) -> Table:
    """Verdicts on the test anomalies per defect type, the lowest recall first."""
    anomalies = [(row["defect_type"], row["verdict"]) for row in winner.rows if row["label"]]
    return _recall("Recall is the share that is rejected, with its 95 % interval", anomalies)


def recall_on_feedback(feedback: FeedbackResult) -> Table:
    """Verdicts on the corrected anomalies per defect type, the lowest recall first."""
    anomalies = [(one.defect_type, one.verdict) for one in feedback.images]
    return _recall("Anomalies whose verdict a person corrected", anomalies)


def _recall(caption: str, anomalies: Iterable[tuple[str, Verdict]]) -> Table:
    verdicts: dict[str, list[Verdict]] = {}
    for defect_type, verdict in anomalies:
        verdicts.setdefault(defect_type, []).append(verdict)
    ordered = sorted(verdicts.items(), key=lambda item: item[1].count("reject") / len(item[1]))
    rows = [_caught(defect, seen) for defect, seen in ordered]
    head = ("defect", "images", "rejected", "review", "missed", "recall")
    return Table(caption, head, rows, frozenset({1, 2, 3, 4, 5}))


def cost(record: RetrainingRecord) -> Table:
    """Time, memory and size of each candidate."""
    head = (
        *("detector", "device", "training", "peak memory"),
        *("inspection, per image", "size of the bundle"),
    )
    rows = [(one.name, *_cost(one)) for one in record.detectors]
    return Table("Cost", head, rows, frozenset({2, 3, 4, 5}))


def _training(one: DetectorRecord) -> tuple[str, ...]:
    info = one.bundle
    if info is None:
        return (_ABSENT,) * 4
    epochs = len(info.training.losses)
    return info.teacher.name, str(info.geometry), str(info.training.seed), str(epochs or _ABSENT)


def _cost(one: DetectorRecord) -> tuple[str, ...]:
    info, memory = one.bundle, one.peak_memory_megabytes
    return (
        _ABSENT if info is None else info.training.device,
        _ABSENT if info is None else _duration(info.training.seconds),
        _ABSENT if memory is None else f"{memory:.0f} MB",
        _ABSENT if one.result is None else f"{one.result.ms_per_image:.0f} ms",
        _ABSENT if info is None else f"{info.weights_bytes / 1e6:.1f} MB",
    )


def _difference(name: str, one: Mapping[str, Any], *, decides: bool) -> tuple[str, ...]:
    return (
        FIGURE_NAMES[name],
        f"{one['challenger']:.3f}",
        f"{one['champion']:.3f}",
        f"{one['difference']:+.3f}\n{one['interval'][0]:+.3f} to {one['interval'][1]:+.3f}",
        f"{one['margin']:g}",
        "decides" if decides else "vetoes" if one["vetoes"] else "may veto",
    )


def _latency(one: Mapping[str, Any], *, vetoes: bool) -> tuple[str, ...]:
    took, before, budget = one["challenger_ms"], one["champion_ms"], one["budget_ms"]
    interval = one["interval"]
    between = "" if interval is None else f"\n{interval[0]:.1f} to {interval[1]:.1f}"
    if budget is None:
        allowed, role = _ABSENT, _ABSENT
    else:
        allowed, role = f"budget {budget:g}", "vetoes" if vetoes else "may veto"
    return (
        "latency, ms per image",
        f"{took:.1f}{between}",
        f"{before:.1f}",
        f"{took - before:+.1f}",
        allowed,
        role,
    )


def _promise(verdict: str, threshold: Threshold, seen: int, normals: int) -> tuple[str, ...]:
    share = _ABSENT
    if normals:
        low, high = clopper_pearson(seen, normals)
        share = f"{seen} of {normals}\n{low:.1%} to {high:.1%}"
    return (
        verdict,
        f"{threshold.value:.5g}",
        f"at most {threshold.bound:.1%}",
        f"at most {threshold.rate_95:.1%}",
        share,
    )


def _caught(defect: str, verdicts: Sequence[str]) -> tuple[str, ...]:
    rejected, images = verdicts.count("reject"), len(verdicts)
    return (
        defect,
        str(images),
        str(rejected),
        str(verdicts.count("review")),
        str(verdicts.count("pass")),
        _with_interval(rejected / images, clopper_pearson(rejected, images)),
    )


def _with_interval(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return _ABSENT
    return f"{value:.3f}" + ("" if interval is None else f"\n{_range(interval)}")


def _range(interval: Interval) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
