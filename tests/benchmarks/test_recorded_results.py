"""The page of measured figures, against the cells that it comes from."""

import re
import shlex
from pathlib import Path

from benchmarks.accuracy import main

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_its_command_makes_of_the_recorded_cells(tmp_path: Path) -> None:
    """A cell of another version of its method would be run again, without images."""
    recorded = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    command = re.search(r"`python -m benchmarks.accuracy (.*?)`", recorded)
    assert command is not None
    page = tmp_path / "results.md"
    places = {"benchmarks/results/accuracy": str(ROOT / "benchmarks/results/accuracy")}
    places["docs/results.md"] = str(page)
    main([places.get(word, word) for word in shlex.split(command[1])])
    assert page.read_text(encoding="utf-8") == recorded
