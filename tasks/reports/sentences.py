"""Sentences of the report: the outcome of a retraining and its meaning."""

from collections.abc import Iterator

from stillwatch.settings import RetrainSettings
from stillwatch.tasks.evaluation.notes import caveats, promise, tested
from stillwatch.tasks.evaluation.seeds import by_detector
from stillwatch.tasks.evaluation.winner import deciding_figure, may_win
from stillwatch.tasks.promotion.disagreement import Disagreement
from stillwatch.tasks.registry.approval import CHAMPION_SINCE, NOT_PROMOTED
from stillwatch.tasks.registry.versions import CHAMPION
from stillwatch.tasks.reports.record import (
    DetectorRecord,
    RetrainingRecord,
    VersionRecord,
    WinnerRecord,
)
from stillwatch.text import counted

_ENDED = {
    "RUNNING": "the retraining has not ended",
    "KILLED": "the retraining was stopped",
    "FAILED": "the retraining failed",
    "FINISHED": "the retraining has no winner",
}
_MEANINGS = {
    "better": "It is surely better than the champion.",
    "not_worse": "It is surely not worse than the champion by more than the margin.",
    "worse": "It is surely worse than the champion.",
    "not_enough_evidence": "There are too few test images to tell the two apart.",
}


def headline(record: RetrainingRecord) -> str:
    """The outcome in one line."""
    winner = record.winner
    if winner is None:
        return f"{record.category}: {_ENDED[record.status]}"
    if winner.version is None:
        return f"{record.category}: {winner.detector} won, and its version was deleted later"
    verb = "registered as" if winner.version.created else "is still"
    aliases = "".join(f", {alias}" for alias in winner.version.aliases)
    return f"{record.category}: {winner.detector} {verb} version {winner.version.number}{aliases}"


def summary(record: RetrainingRecord) -> list[str]:
    """The most important facts."""
    winner = record.winner
    if winner is None:
        return list(_without_winner(record))
    result = winner.result
    sentences = [f"On the test images it {tested(result)}.", f"Promise: {promise(result)}."]
    if winner.version is not None:
        sentences += _state_of(record, winner.version)
    return [*sentences, *caveats(result), _choice(record, winner), *_seeds(record)]


def outcome(detector: DetectorRecord) -> str:
    """The outcome of one candidate in a few words."""
    if detector.reason:
        return f"failed: {detector.reason}"
    if detector.run_id is None:
        return "its training did not start"
    if detector.result is not None:
        return "trained by an earlier retraining" if detector.reused else "trained"
    return "not trained" if detector.bundle is None else "trained, but not evaluated"


def gate(record: RetrainingRecord) -> list[str]:
    """The gate's answer about the winner and the champion of that time."""
    if record.winner is None or record.winner.version is None:
        return ["Nothing was compared with the champion: there is no new version."]
    judgement = record.winner.version.judgement
    if judgement is None:
        return ["The gate has not judged this version."]
    if judgement.compared_with is None:
        return ["There was no champion to compare it with."]
    return [
        f"Compared with the champion of that time, version {judgement.compared_with}: "
        f"{judgement.comparison}",
        _MEANINGS.get(judgement.answer or "", "It could not be compared with the champion."),
    ]


def disagreement(found: Disagreement) -> str:
    """How often the version and the champion gave different verdicts, and which was right."""
    count = found.worse + found.better
    if not count:
        return "Both gave the same verdict on every image."
    return (
        f"Their verdicts differ on {counted(count, 'image')}: the new version is farther from the "
        f"truth on {found.worse}, nearer to it on {found.better}."
    )


def _without_winner(record: RetrainingRecord) -> Iterator[str]:
    if record.reason:
        yield record.reason
    if record.status != "RUNNING":
        yield "Nothing was registered; an existing champion stays champion."
    evaluated = [one.name for one in record.detectors if one.result is not None]
    if evaluated:
        yield f"The figures of {', '.join(evaluated)} are below, and will not be computed again."


def _choice(record: RetrainingRecord, winner: WinnerRecord) -> str:
    settings = _settings_of_choice(record)
    results = [one.result for one in record.detectors if one.result is not None]
    competing = may_win(results, settings)
    others = by_detector(competing).keys() - {winner.detector}
    if not others:
        return f"Only {winner.detector} could be chosen."
    figure = deciding_figure(competing, settings.select_by)
    if len(record.seeds) > 1:
        figure = f"the mean {figure} over {len(record.seeds)} seeds"
    return (
        f"{winner.detector} won over {', '.join(sorted(others))} by {figure}. It was chosen on the "
        "test images, so its figures are a little optimistic."
    )


def _settings_of_choice(record: RetrainingRecord) -> RetrainSettings:
    """The settings by which the winner was chosen."""
    changed = record.changed_settings
    return RetrainSettings.model_validate(
        {
            name: changed[f"retrain.{name}"]
            for name in ("select_by", "allow_baselines")
            if f"retrain.{name}" in changed
        }
    )


def _seeds(record: RetrainingRecord) -> Iterator[str]:
    if len(record.seeds) > 1:
        yield (
            f"The registered detector was trained with seed {record.seeds[0]}, the first of "
            f"{', '.join(map(str, record.seeds))}. The seed was fixed before the evaluation, so "
            "it was not picked for its figures."
        )


def _state_of(record: RetrainingRecord, version: VersionRecord) -> Iterator[str]:
    judgement = version.judgement
    if CHAMPION in version.aliases:
        yield "It is the champion, the version in production."
    elif CHAMPION_SINCE in version.tags:
        yield "It was the champion earlier."
    if NOT_PROMOTED in version.tags:
        yield f"It was not promoted automatically: {version.tags[NOT_PROMOTED].rstrip('.')}."
        if judgement is not None and judgement.answer is not None:
            yield _MEANINGS[judgement.answer]
    if version.approval == "refused":
        yield "The gate refused it: nobody may make it champion."
    elif version.approval == "pending":
        despite = " --despite '...'" if judgement and judgement.missed_floors else ""
        yield (
            f"It waits for approval: stillwatch promote {record.category} --version "
            f"{version.number} --approve --reason '...'{despite}"
        )
