"""Parse an HTML page into its visible text."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """The visible text of a page, and every address in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.text = ""
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.headings: list[dict[str, str | None]] = []
        """Attributes of the cells that head a row or column."""
        self.feed(html)

    @property
    def needs(self) -> set[str]:
        """Addresses outside the file, and scripts."""
        markup = re.sub(r"base64,[A-Za-z0-9+/=]*", "", self.html)
        found = set(re.findall(r"https?://|//[a-z]|@import|url\(", markup))
        return found | ({"script"} & set(self.tags))

    @property
    def words(self) -> str:
        """The text in one line."""
        return " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [found[name] or "" for name in ("src", "href") if name in found]
        if tag == "img":
            self.images.append(found)
        if tag == "th":
            self.headings.append(found)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.text += data
