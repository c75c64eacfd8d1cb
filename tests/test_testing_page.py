"""``docs/testing.md`` names tests that exist, and every test that ``make test`` leaves out."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_exists() -> None:
    files = set(re.findall(r"`(tests/\S+\.py)`", PAGE))
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []
    sources = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    names = set(re.findall(r"`(test_\w+)`", PAGE))
    assert [name for name in names if f"def {name}(" not in sources] == []


def test_every_slow_test_is_on_the_page() -> None:
    marked = re.compile(r"@pytest\.mark\.slow\ndef (test_\w+)")
    whole = re.compile(r"^pytestmark = \[[^]]*pytest\.mark\.slow", re.MULTILINE)
    slow = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        source = file.read_text(encoding="utf-8")
        slow |= set(marked.findall(source))
        if whole.search(source):
            slow |= set(re.findall(r"^def (test_\w+)", source, re.MULTILINE))
    assert len(slow) > 5
    assert [name for name in slow if f"`{name}`" not in PAGE] == []
