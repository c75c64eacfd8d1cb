"""Describe a registered version for its page in MLflow."""

from urllib.parse import urlencode

from stillwatch.tasks.evaluation.gallery import GALLERY, STRIP
from stillwatch.tasks.evaluation.notes import promise, tested
from stillwatch.tasks.reports.record import RetrainingRecord, WinnerRecord
from stillwatch.text import printable


def version_description(
    record: RetrainingRecord, winner: WinnerRecord, report: str, *, approval: str | None
) -> str:
    """What a version does, four pictures, and links, as Markdown.

    MLflow removes pictures that are embedded in the text, so the strip is an address of its server.

    Args:
        record: of the retraining.
        winner: of the retraining; its run has the pictures.
        report: address of the HTML report.
        approval: address of the page where a person decides; None: nobody has to.
    """
    strip = urlencode({"path": f"{GALLERY}/{STRIP}", "run_uuid": winner.result.run_id})
    links = [f"[Report]({report})", *([] if approval is None else [f"[Approval]({approval})"])]
    return "\n\n".join(
        [
            f"**{winner.detector}** for {printable(record.category)}",
            f"On the test images it {tested(winner.result)}.",
            f"Promise: {promise(winner.result)}.",
            f"![Four test images](get-artifact?{strip})",
            " · ".join(links),
        ]
    )
