"""No text says "1 rows"."""

import re

import pytest

from schema.fields import counted
from tests.source import python_files

_COUNT_AND_PLURAL = re.compile(
    r"\{(?![^{}]*MAX)[^{}]+:,\} (\w+ ){0,2}(row|claim|run|event|letter|entrie|file|migration|difference)s\b"
)
"""A number in a text, and words behind it that are wrong for one. Bounds are more than one."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (counted(0, "row"), "0 rows"),
        (counted(1, "row"), "1 row"),
        (counted(2_000, "row"), "2,000 rows"),
        (counted(1, "log entry is", "log entries are"), "1 log entry is"),
        (counted(2, "log entry is", "log entries are"), "2 log entries are"),
    ],
)
def test_a_number_is_said_with_the_right_word(text: str, expected: str) -> None:
    assert text == expected


def test_texts_for_people_say_numbers_by_it() -> None:
    found = [
        f"{path.name}: {line.strip()}"
        for path in python_files("cli", "client", "worker")
        for line in path.read_text(encoding="utf-8").splitlines()
        if _COUNT_AND_PLURAL.search(line)
    ]
    assert found == []
