"""A parser of report pages: text by section, tables, pictures."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from picie.report import write_report

_EMPTY = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """The content of an HTML page.

    Attributes:
        text: the text of each section, by its id; that outside of sections under "".
        tables: the rows of each table's body, by its class; each cell's text.
        images: (section, class, alt, src) of each picture.
        references: everything that the page points to.
        tags: the names of all elements.
        headings: (section, text) of each heading within one.
        legends: (name, colour) of the entries of each legend, by its label.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.text: defaultdict[str, str] = defaultdict(str)
        self.tables: defaultdict[str, list[list[str]]] = defaultdict(list)
        self.images: list[tuple[str, str, str, str]] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.legends: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self.headings: list[tuple[str, str]] = []
        self._open: list[str] = []
        self._section, self._table, self._body, self._legend, self._color = "", "", False, "", ""
        self.feed(self.source)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.add(tag)
        self.references += [values[key] for key in ("src", "href", "srcset", "data", "action") if key in values]
        if tag not in _EMPTY:
            self._open.append(tag)
        if tag == "section":
            self._section = values["id"]
        elif tag == "table":
            self._table = values["class"]
        elif tag == "tbody":
            self._body = True
        elif tag == "tr" and self._body:
            self.tables[self._table].append([])
        elif tag in {"td", "th"} and self._body:
            self.tables[self._table][-1].append("")
        elif tag == "img":
            self.images.append((self._section, values.get("class", ""), values["alt"], values["src"]))
        elif tag == "ul" and "legend" in values.get("class", "").split():
            self._legend = values.get("aria-label", "")
        elif tag == "i" and values.get("class") == "swatch":
            self._color = values["style"].removeprefix("background:")

    def handle_endtag(self, tag: str) -> None:
        assert tag in _EMPTY or self._open.pop() == tag, tag
        if tag == "section":
            self._section = ""
        elif tag == "tbody":
            self._body = False

    def handle_data(self, data: str) -> None:
        if not self._open or "style" in self._open:
            return
        self.text[self._section] += data
        if self._body and self._open[-1] in {"td", "th", "span", "code"}:
            self.tables[self._table][-1][-1] += data.strip()
        elif self._open[-1] == "li" and self._legend:
            self.legends[self._legend].append((data, self._color))
        elif self._open[-1] == "h3":
            self.headings.append((self._section, data))

    @property
    def notes(self) -> str:
        """The text outside of the sections, which lists what is missing."""
        return self.text[""]

    def pictures(self, section: str) -> list[Image.Image]:
        """The pictures of a section, decoded."""
        return [decode(src) for where, _, _, src in self.images if where == section]


def decode(uri: str) -> Image.Image:
    """The picture of a data URI."""
    kind, comma, content = uri.partition(",")
    assert comma
    assert kind in {"data:image/jpeg;base64", "data:image/png;base64"}
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    image.load()
    return image


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[..., Page]:
    """page_of(run, data=...): the page of a run."""

    def make(run: Path, data: Path | None = None) -> Page:
        return Page(write_report(run, tmp_path / "page.html", data, "cpu"))

    return make


@pytest.fixture(scope="session")
def page(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of `trained`."""
    return Page(write_report(trained, tmp_path_factory.mktemp("report") / "page.html", device="cpu"))
