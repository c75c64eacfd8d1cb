"""Render a retraining's report as one HTML file without scripts or external files."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from matplotlib.figure import Figure

from stillwatch import __version__, pictures
from stillwatch.tasks.evaluation.gallery import Mistake, ShownImage
from stillwatch.tasks.evaluation.notes import feedback_sentence, promises, threshold_sentences
from stillwatch.tasks.html import TEMPLATES, data_uri
from stillwatch.tasks.registry.versions import CHAMPION
from stillwatch.tasks.reports import tables as report_tables
from stillwatch.tasks.reports.record import RetrainingRecord, WinnerRecord
from stillwatch.tasks.reports.sentences import disagreement, gate, headline, summary
from stillwatch.tasks.tracking.tags import DATA_VERSION

_SHOWN_AT_ONCE = 6
"""Images of each group that the page shows without a click."""


@dataclass(frozen=True)
class Chart:
    """A chart embedded in the page."""

    uri: str
    alt: str


@dataclass(frozen=True)
class ImageGroup:
    """A group of test images."""

    title: str
    note: str
    images: Sequence[ShownImage]


def report_page(record: RetrainingRecord) -> str:
    """The HTML of a report."""
    winner = record.winner
    disputed = None if winner is None else winner.disagreement
    return TEMPLATES.get_template("retraining.html.j2").render(
        record=record,
        tables=report_tables,
        headline=headline(record),
        mood=_mood(record),
        summary=summary(record),
        gate=gate(record),
        disputed=disputed,
        disputed_words="" if disputed is None else disagreement(disputed),
        promises=[]
        if winner is None
        else promises(
            winner.bundle.calibration,
            len(winner.bundle.groups),
            winner.result.calibration_repeats,
        ),
        exact=[] if winner is None else threshold_sentences(winner.result),
        feedback_sentence=feedback_sentence,
        histogram=None if winner is None else _histogram(winner),
        losses=_losses(record),
        groups=[] if winner is None else _groups(winner),
        shown_at_once=_SHOWN_AT_ONCE,
        data_version=_data_version(record),
        started=_minute(record.started / 1000),
        made=_minute(datetime.now(UTC).timestamp()),
        made_by=f"stillwatch {__version__}",
    )


def _mood(record: RetrainingRecord) -> Literal["", "warning", "critical"]:
    """The colour class of the page's header."""
    if record.winner is None:
        return "critical"
    version = record.winner.version
    good = (
        version is not None and CHAMPION in version.aliases and not record.winner.result.synthetic
    )
    return "" if good else "warning"


def _data_version(record: RetrainingRecord) -> str:
    tag, digest = record.tags["stillwatch.data_tag"], record.tags[DATA_VERSION]
    return f"{tag} ({digest})" if tag else digest


def _losses(record: RetrainingRecord) -> list[Chart]:
    """The loss curves of each detector that an optimiser trained."""
    charts = []
    for one in record.detectors:
        if one.bundle is not None and one.bundle.training.losses:
            training = one.bundle.training
            figure = pictures.loss_curve(training.losses, training.kept_epochs, title=one.name)
            alt = f"Losses of {one.name} on training and validation normals, epoch by epoch"
            charts.append(_chart(figure, alt))
    return charts


def _histogram(winner: WinnerRecord) -> Chart:
    calibration = winner.bundle.calibration
    figure = pictures.score_histogram(
        [row["score"] for row in winner.rows if not row["label"]],
        [row["score"] for row in winner.rows if row["label"]],
        calibration.scores,
        reject=calibration.reject,
        review=calibration.review,
        title=f"Image scores of {winner.detector}",
        synthetic=winner.result.synthetic,
    )
    alt = "Histograms of the scores of calibration normals, test normals and test anomalies"
    return _chart(figure, f"{alt}, with both thresholds")


def _chart(figure: Figure, alt: str) -> Chart:
    return Chart(data_uri(pictures.svg(figure), "image/svg+xml"), alt)


def _groups(winner: WinnerRecord) -> list[ImageGroup]:
    verdicts = [(row["label"], row["verdict"]) for row in winner.rows]
    anomalies = sum(label for label, _ in verdicts)
    missed, false_alarms = verdicts.count((1, "pass")), verdicts.count((0, "reject"))
    return [
        _group(winner, "missed", "Missed anomalies", f"Of {anomalies} anomalies {missed} pass"),
        _group(
            winner,
            "false_alarm",
            "False alarms",
            f"Of {len(verdicts) - anomalies} good parts {false_alarms} are rejected",
        ),
        _group(winner, None, "Other test images", "The nearest to the threshold of each kind"),
    ]


def _group(winner: WinnerRecord, mistake: Mistake | None, title: str, said: str) -> ImageGroup:
    images = [one for one in winner.images if one.mistake == mistake]
    return ImageGroup(title, f"{said}; {len(images)} shown" if images else said, images)


def _minute(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
