"""Render the page that a person reads in Prefect before approving a version."""

from stillwatch.tasks.promotion.disagreement import Disagreement
from stillwatch.tasks.registry.approval import DESPITE
from stillwatch.tasks.reports.decisions import REPORT_LINK
from stillwatch.tasks.reports.record import RetrainingRecord, VersionRecord
from stillwatch.tasks.reports.sentences import disagreement, gate, summary
from stillwatch.tasks.reports.tables import Table, against_champion
from stillwatch.text import printable

MOST_PICTURES = 6
"""Shown on the page; the report has more."""


def approval_page(
    record: RetrainingRecord, waiting: VersionRecord, report: str, *, form: str | None = None
) -> str:
    """Render the page as Markdown with embedded pictures.

    Args:
        waiting: the version that needs approval.
        report: address of the HTML report.
        form: address of the form that promotes the version; None: ``stillwatch up`` has never run.
    """
    winner = record.winner
    missed = waiting.judgement.missed_floors if waiting.judgement else ""
    against = None if winner is None else against_champion(winner)
    disputed = None if winner is None else winner.disagreement
    parts = [
        f"# {record.category}: version {waiting.number} waits for approval",
        *summary(record),
        gate(record)[0],
        *([] if against is None else [f"{against.caption}:", _markdown(against)]),
        *([] if disputed is None else _disputed(disputed)),
        f"{REPORT_LINK}({report})",
        f"To approve, {_by_form(form)}run the command above; or, in MLflow, set the version's tag "
        "`stillwatch.approval` to `approved`. To decline, do nothing: the champion stays.",
        *([_despite(missed)] if missed else []),
    ]
    return "\n\n".join(parts)


def _by_form(form: str | None) -> str:
    return "" if form is None else f"[fill in your name and a reason]({form}); or "


def _despite(missed: str) -> str:
    return (
        f"**This version misses a floor**: {missed}. Its approval needs a "
        f"second reason: the field *despite* of the form, or the tag `{DESPITE}` in MLflow."
    )


def _disputed(found: Disagreement) -> list[str]:
    shown = found.images[:MOST_PICTURES]
    parts = [disagreement(found)]
    if shown:
        parts.append(
            "From left to right: the image; the true defect outlined in green, where there is a "
            "mask; the champion's anomaly map; the new version's anomaly map. Outlines: solid for "
            "reject, dotted for review, dashed for a missed defect, whose map is on its own scale."
        )
    for image in shown:
        verdicts = f"champion: {image.champion}, new version: {image.challenger}"
        parts.append(f"**{verdicts}** – {image.defect_type} `{printable(image.name)}`")
        parts.append(f"![{verdicts}]({image.picture})")
    return parts


def _markdown(table: Table) -> str:
    lines = [table.head, ("---",) * len(table.head), *table.rows]
    return "\n".join(f"| {' | '.join(map(_on_one_line, line))} |" for line in lines)


def _on_one_line(cell: str) -> str:
    text, _, small = cell.partition("\n")
    return f"{text} ({small})" if small else text
