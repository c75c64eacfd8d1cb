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
        "Each repeat has a plant of its own: real git, DVC, Prefect and MLflow, tiny images. "
        "`make test-slow` tries each once, `make test` a retraining that is killed, and beside it: "
        "a training whose result cannot be stored "
        "(`tests/tasks/training/test_train.py`), a promotion that is cut off "
        "(`tests/tasks/promotion/test_alias.py`) or whose MLflow server dies "
        "(`tests/flows/test_promotion_by_server.py`), a registration that is cut off "
        "(`tests/tasks/registry/test_cleanup.py`), an ingest that fails or is killed after "
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
        return "not tried here"
    return f"as expected, {counts['passed']} of {total}"
