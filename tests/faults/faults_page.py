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
        "# Tested faults",
        "",
        f"`make reliability`, commit {commit()[:10]}, {platform.system()} {platform.machine()}. "
        "Each repeat has an installation of its own with real git, DVC, Prefect and MLflow, and "
        "tiny images. `make test-slow` runs each fault once, and `make test` the killed "
        "`stillwatch retrain`. `make test` also tests a training whose result cannot be stored "
        "(`tests/tasks/training/test_train.py`), a promotion that is interrupted "
        "(`tests/tasks/promotion/test_alias.py`) or whose MLflow server dies "
        "(`tests/flows/test_promotion_by_server.py`), a registration that is interrupted "
        "(`tests/tasks/registry/test_cleanup.py`), and an ingest that fails or is killed after "
        "it has admitted images (`tests/flows/test_ingest.py`).",
        "",
        "| injected | expected | happened |",
        "|---|---|---|",
    ]
    for story, counts in sorted(outcomes.items()):
        injected, expected = (" ".join(part.split()) for part in story.split("\n\n"))
        lines.append(f"| {injected} | {expected} | {_happened(counts)} |")
    return "\n".join(lines) + "\n"


def _happened(counts: Counter[str]) -> str:
    total = counts.total()
    if counts["skipped"] == total:
        return "not tested here"
    return f"as expected, {counts['passed']} of {total}"
