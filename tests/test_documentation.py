"""The README and the pages of ``docs/``: links lead somewhere, and every page can be found."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
INDEX = ROOT / "docs" / "README.md"
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
_PICTURE = re.compile(r'\b(?:src|srcset)="([^"]+)"')


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, heading in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file = page.parent / target
        assert file.exists(), f"{page.name} links to {target}"
        if heading:
            assert heading in _anchors(file), f"{page.name} links to {target}#{heading}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_pictures_exist(page: Path) -> None:
    for picture in _PICTURE.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / picture).exists(), f"{page.name} shows {picture}"


def test_the_index_names_every_page() -> None:
    linked = {target for target, _ in _LINK.findall(INDEX.read_text(encoding="utf-8"))}
    assert {page.name for page in PAGES} - {INDEX.name} <= linked


def _anchors(page: Path) -> set[str]:
    """As the repository's host makes them of headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
