"""The two outputs of a command. All that it prints passes here, and no text from outside reaches a terminal raw."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from worker.logs import escape_unprintable

COLUMNS_MIN: Final = 80
"""A narrower terminal wraps the lines of a table."""

ONE_LINE_COLUMNS_MIN: Final = 140
"""From this width on, a row of a table takes one line; below, the cells of a group stand one below the other."""

TAB_COLUMNS: Final = 8
GAP_COLUMNS: Final = 2
"""Between two columns of a table."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Cell:
    """A text in a table, in a colour or another style of rich."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; the heading is printed as it is.

    `is_whole`: the texts in it are never broken into lines, so they have to be short.
    """

    heading: str
    is_whole: bool = False
    is_number: bool = False


class ResultTable:
    """Rows under headings, escaped. The columns come in groups: on a narrow terminal each group is one column.

    A row has one cell per column, in the order of the columns.
    """

    def __init__(self, *groups: Sequence[Column], title: str = "") -> None:
        self.title = escape_unprintable(title)
        self.groups = groups
        self.columns = [column for group in groups for column in group]
        self.rows: list[Sequence[Cell]] = []

    def add_row(self, *cells: str | Cell) -> None:
        """Add a row, escaped."""
        assert len(cells) == len(self.columns)
        styled = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        self.rows.append([Cell(escape_unprintable(cell.text), cell.style) for cell in styled])

    def width_min(self, column: Column) -> int:
        """The characters that a column needs at least: for its heading, and for the texts that are not broken."""
        place = self.columns.index(column)
        texts = [row[place].text for row in self.rows] if column.is_whole else []
        return max(map(cell_len, [column.heading, *texts]))


class Terminal:
    """Standard output, or standard error."""

    def __init__(self, *, is_error: bool) -> None:
        self._is_error = is_error

    @cached_property
    def _console(self) -> Console:
        # Made when it is first used: the width comes from the environment.
        console = Console(stderr=self._is_error, markup=False, highlight=False, emoji=False)
        console.width = max(COLUMNS_MIN, console.width)
        return console

    def clear(self) -> None:
        """Make a terminal empty; of a file or a pipe nothing."""
        self._console.clear()

    def print_line(self, text: str = "", style: str = "") -> None:
        """Print one line, however long it is; line ends in the text are escaped."""
        self._console.print(Text(escape_unprintable(text), style), soft_wrap=True)

    def print_text(self, text: str) -> None:
        """Print a text of several lines; only line ends and tabs have an effect."""
        for line in text.split("\n"):
            self.print_line(line.expandtabs(TAB_COLUMNS))

    def print_table(self, table: ResultTable) -> None:
        """Print a table in the width of the terminal. Texts that are too long are broken into lines, never cut."""
        columns_max = self._console.width
        is_narrow = columns_max < ONE_LINE_COLUMNS_MIN
        sizes = list(map(len, table.groups)) if is_narrow else [1] * len(table.columns)
        groups = list(_split(table.columns, sizes))
        rows = [[_joined(cells) for cells in _split(row, sizes)] for row in table.rows]
        rendered = Table(
            box=SIMPLE_HEAD,
            show_lines=max(sizes) > 1,
            show_edge=False,
            pad_edge=False,
            padding=(0, GAP_COLUMNS - 1, 0, 0),
            title=Text(table.title) if table.title else None,
            title_justify="left",
        )
        widths_min = [max(map(table.width_min, group)) for group in groups]
        widths = [max([low, *(_text_width(row[place]) for row in rows)]) for place, low in enumerate(widths_min)]
        for group, width in zip(groups, fit_widths(widths, widths_min, columns_max), strict=True):
            rendered.add_column(
                "\n".join(column.heading for column in group),
                width=width,
                overflow="fold",
                justify="right" if all(column.is_number for column in group) else "left",
            )
        for row in rows:
            rendered.add_row(*row)
        self._console.print(rendered)

    def print_fields(self, fields: Mapping[str, str]) -> None:
        """Print names and values, one per line. A value keeps its line ends: it stands in a column of its own."""
        rendered = Table(show_header=False, box=None)
        rendered.add_column(style="bold", overflow="fold", max_width=self._console.width // 2)
        rendered.add_column(overflow="fold")
        for name, value in fields.items():
            lines = (escape_unprintable(line.expandtabs(TAB_COLUMNS)) for line in value.split("\n"))
            rendered.add_row(Text(escape_unprintable(name)), Text("\n".join(lines)))
        self._console.print(rendered)

    @contextmanager
    def progress_bar(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """A bar to show how far a command is: call it with what is done and the total. Only a terminal shows it."""
        with Progress(console=self._console, transient=True, disable=not self._console.is_terminal) as progress:
            bar = progress.add_task(label, total=None)

            def show(done: int, total: int) -> None:
                progress.update(bar, completed=done, total=total)

            yield show


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print JSON on standard output, for a script. Everything outside ASCII is escaped."""
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")


def fit_widths(widths: Sequence[int], widths_min: Sequence[int], total: int) -> list[int]:
    """The widths that columns get in a table of at most `total`, given what each would like and needs at least.

    The columns share what there is equally; what one does not need, the others get.
    """
    left = total - GAP_COLUMNS * len(widths) + 1 - sum(widths_min)
    fitted = list(widths_min)
    wishes = sorted((width - low, place) for place, (width, low) in enumerate(zip(widths, widths_min, strict=True)))
    for number, (wish, place) in enumerate(wishes):
        grant = min(wish, max(0, left) // (len(wishes) - number))
        fitted[place] += grant
        left -= grant
    return fitted


def _text_width(text: Text) -> int:
    """The terminal's columns that a text takes: of its lines, the widest."""
    return max(map(cell_len, text.plain.split("\n")))


def _split(items: Sequence[Item], sizes: Sequence[int]) -> Iterator[Sequence[Item]]:
    """The items in groups of these sizes."""
    start = 0
    for size in sizes:
        yield items[start : start + size]
        start += size


def _joined(cells: Sequence[Cell]) -> Text:
    """The cells one below the other; those at the end that are empty take no line."""
    texts = [Text(cell.text, cell.style) for cell in cells]
    while len(texts) > 1 and not texts[-1].plain:
        texts.pop()
    return Text("\n").join(texts)


out: Final = Terminal(is_error=False)
err: Final = Terminal(is_error=True)
