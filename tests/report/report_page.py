"""A parsed page of the report, for its tests."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "hr", "img"}


class Page(HTMLParser):
    """Checks that tags are closed in order; collects ids, tags, attributes, text and tables by caption."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.ids, self.tags, self.attributes = [], [], [], []
        self.texts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._name = ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows, self._name = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag == "td":
            self._rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self._name] = [row for row in self._rows if row]

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)
        if self.open and self.open[-1] == "caption":
            self._name += data
        if "td" in self.open and self._rows and self._rows[-1] and "small" not in self.open:
            self._rows[-1][-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))
