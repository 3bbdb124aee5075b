"""Reads the project's own pages: their links, headings, code blocks and tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.contract.pages import FENCE

ROOT: Final = Path(__file__).resolve().parents[1]

PAGES: Final = sorted(
    page for folder in ("", "docs/**/", "benchmarks/", "client/", "sql/") for page in ROOT.glob(f"{folder}*.md")
)

_LINK: Final = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
_CODE: Final = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Link:
    """A link: its text, its target, and the part after the `#`."""

    text: str
    target: str
    anchor: str


def read(path: str | Path) -> str:
    """The text of a page. `path` is relative to the root."""
    return (ROOT / path).read_text(encoding="utf-8")


def name(path: Path) -> str:
    """The path of a page, relative to the root."""
    return str(path.relative_to(ROOT))


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page)


def links(page: str) -> Iterator[Link]:
    """The links of a page: to files, pages and headings."""
    for match in _LINK.finditer(prose(page)):
        target, _, anchor = match["target"].partition("#")
        yield Link(match["text"], target, anchor)


def anchors(page: str) -> set[str]:
    """The names that a link may have after the `#`: GitHub makes one from each heading."""
    slugs: set[str] = set()
    for heading in _HEADING.findall(prose(page)):
        text = _LINK.sub(r"\g<text>", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = 0
        while (unique := f"{slug}-{count}" if count else slug) in slugs:
            count += 1
        slugs.add(unique)
    return slugs


def code(page: str) -> Iterator[str]:
    """The texts between backticks."""
    return iter(_CODE.findall(prose(page)))


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its header."""
    section = re.split(rf"^#+ {re.escape(heading)}$", page, flags=re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]
