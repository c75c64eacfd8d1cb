"""What was injected, what was expected and what happened, as Markdown."""

import platform
from collections import Counter
from collections.abc import Mapping

from benchmarks.revision import commit


def render(outcomes: Mapping[str, Counter[str]]) -> str:
    """The page.

    Args:
        outcomes: by a case's docstring, whose first paragraph says what is injected and whose
            second what is expected: how many repeats passed, failed or were skipped.
    """
    lines = [
        "# Faults that were tried",
        "",
        f"`make reliability`, commit {commit()[:10]}, {platform.system()} {platform.machine()}. "
        "Each repeat has a plant of its own: real git, DVC, Prefect and MLflow, tiny images. The "
        "same cases run once in `make test`; that a worker or a whole machine dies under "
        "`stillwatch up` is tried in `tests/flows/test_services.py`, and a promotion that is cut "
        "off in `tests/tasks/test_promotion.py`.",
        "",
        "| injected | expected | happened |",
        "|---|---|---|",
    ]
    for story, counts in outcomes.items():
        injected, expected = (" ".join(part.split()) for part in story.split("\n\n"))
        lines.append(f"| {injected} | {expected} | {_happened(counts)} |")
    return "\n".join(lines) + "\n"


def _happened(counts: Counter[str]) -> str:
    total = counts.total()
    if counts["skipped"] == total:
        return "not tried here"
    return f"as expected, {counts['passed']} of {total}"
