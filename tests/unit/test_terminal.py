"""A command prints text that fits the terminal and does it no harm, whatever the text is."""

import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.terminal import (
    COLUMNS_MIN,
    GAP_COLUMNS,
    ONE_LINE_COLUMNS_MIN,
    Cell,
    Column,
    ResultTable,
    Terminal,
    fit_widths,
    print_json,
)
from worker.logs import escape_fields, escape_unprintable

ESCAPES = {
    "escape": ("a\x1b[2J", "a\\x1b[2J"),
    "NUL": ("\x00", "\\x00"),
    "line ends": ("a\r\nb\u2028c", "a\\r\\nb\\u2028c"),
    "C1": ("\x9b31m", "\\x9b31m"),
    "bidirectional": (
        "\u202a\u202e\u2066\u2069\u200e\u200f\u061c",
        "\\u202a\\u202e\\u2066\\u2069\\u200e\\u200f\\u061c",
    ),
    "zero width": ("\u200b\u200d\u2060\ufeff\u00ad", "\\u200b\\u200d\\u2060\\ufeff\\xad"),
    "tags": ("\U000e0041", "\\U000e0041"),
    "without a shape": ("\u3164\u115f\ufe0f\u034f", "\\u3164\\u115f\\ufe0f\\u034f"),
    "blank": (
        "a\u2800b\u2d7f\ufffc\U00010a3f\U0001107f\U00013441\U00013442\U00016fe4\U0001d159",
        "a\\u2800b\\u2d7f\\ufffc\\U00010a3f\\U0001107f\\U00013441\\U00013442\\U00016fe4\\U0001d159",
    ),
    "spaces": ("a b\u00a0c\u3000d", "a b\\xa0c\\u3000d"),
    "lone surrogate": ("\udcff", "\\udcff"),
    "markup": ("[red]a[/red]:smile:", "[red]a[/red]:smile:"),
    "other scripts": ("\u00e9\u4e16\u0915\u094d\U0001f600", "\u00e9\u4e16\u0915\u094d\U0001f600"),
}


@pytest.mark.parametrize(("text", "escaped"), ESCAPES.values(), ids=ESCAPES.keys())
def test_each_invisible_character_is_escaped(text: str, escaped: str) -> None:
    assert escape_unprintable(text) == escaped


def test_every_control_and_format_character_is_escaped() -> None:
    categories = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    characters = [char for char in map(chr, range(0x110000)) if unicodedata.category(char) in categories]
    assert len(characters) > 100_000
    assert escape_unprintable("".join(characters)).isascii()


def test_a_log_line_on_a_terminal_is_escaped() -> None:
    fields = escape_fields(None, "info", {"event": "x", "message_id": "\x1b[2J", "count": 3})
    assert fields == {"event": "x", "message_id": "\\x1b[2J", "count": 3}


@pytest.mark.parametrize(("text", "escaped"), ESCAPES.values(), ids=ESCAPES.keys())
def test_a_terminal_escapes_every_text_that_it_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, escaped: str
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    table = ResultTable((Column("a", is_whole=True), Column("b")), title=text)
    table.add_row(text, Cell(text, "red"))
    for terminal in (Terminal(is_error=False), Terminal(is_error=True)):
        terminal.print_line(text)
        terminal.print_table(table)
        captured = capsys.readouterr()
        assert (captured.out + captured.err).count(escaped) == 4
        terminal.print_text(text)
        terminal.print_fields({text.replace("\n", ""): text})
        captured = capsys.readouterr()
        assert all(char.isprintable() or char == "\n" for char in captured.out + captured.err)


def test_a_long_text_keeps_its_lines_and_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(is_error=False).print_text("a\n\tb\r\n" + "c" * 200)
    assert capsys.readouterr().out == f"a\n        b\\r\n{'c' * 200}\n"


JSON: dict[str, Any] = {"a": "\x1b\x9b\u202e\u00e9\x7f", "b": [1, None]}


def test_json_has_the_exact_text_and_only_visible_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(JSON)
    printed = capsys.readouterr().out
    assert json.loads(printed) == JSON
    assert all(" " <= char <= "~" or char == "\n" for char in printed)


@pytest.mark.parametrize("columns", [20, 80, 100, 140, 200])
def test_a_table_fits_the_terminal_and_shows_every_character(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = "ABCDEFGHIJ" * 20
    wide = "\u4e16" * 30
    table = ResultTable(
        (Column("whole", is_whole=True), Column("long")), (Column("wide"),), (Column("count", is_number=True),)
    )
    table.add_row("w" * 36, long, wide, "17")
    table.add_row("v" * 36, "", "", "")
    Terminal(is_error=False).print_table(table)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(len(line) + line.count("\u4e16") for line in lines) <= max(columns, COLUMNS_MIN)
    assert "w" * 36 in printed
    assert "v" * 36 in printed
    assert printed.count("17") == 1
    assert "".join(re.findall(r"[A-J]+", printed)) == long
    assert printed.count("\u4e16") == 30
    [first] = [line for line in lines if "w" * 36 in line]
    assert ("ABCD" in first) == (columns >= ONE_LINE_COLUMNS_MIN)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 40)), min_size=1, max_size=10),
    st.integers(80, 300),
)
def test_the_columns_of_a_table_share_its_width(columns: list[tuple[int, int]], total: int) -> None:
    widths_min = [low for _, low in columns]
    widths = [max(width, low) for width, low in columns]
    fit = fit_widths(widths, widths_min, total)
    assert all(low <= each <= width for low, each, width in zip(widths_min, fit, widths, strict=True))
    room = total - GAP_COLUMNS * len(columns) + 1
    if sum(widths_min) <= room:
        assert sum(fit) == min(sum(widths), room)
