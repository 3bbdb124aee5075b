"""Times and ages have one form, both where they are printed and where they are typed."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import typer

from cli.times import AGE_S_MAX, age_option, age_text, parse_age, time_text

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3_725, "1h 2m"), (90_000, "1d 1h"), (86_460, "1d 0h"), (-90, "in 1m 30s")],
)
def test_an_age_is_printed_in_its_two_largest_units(seconds: int, text: str) -> None:
    assert age_text(NOW - timedelta(seconds=seconds), NOW) == text


def test_an_unknown_time_is_printed_as_unknown() -> None:
    assert age_text(None, NOW) == time_text(None) == "unknown"


def test_a_time_is_printed_in_utc() -> None:
    assert time_text(datetime(2026, 1, 31, 9, 30, 5, 9, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-31 07:30:05"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("2h", 7_200),
        ("3d", 259_200),
        ("3d 4h", 273_600),
        ("1h2m", 3_720),
        ("36500d", AGE_S_MAX),
    ],
)
def test_an_age_is_typed_as_it_is_printed(text: str, seconds: int) -> None:
    assert parse_age(text) == timedelta(seconds=seconds)
    assert parse_age(age_text(NOW - timedelta(seconds=min(seconds, 10**9)), NOW)) <= timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "0s", "d", "4h 3d", "-1s", "3 days", "1.5h", "36500d 1s", "999999999d", "\u0663d"]
)
def test_a_text_that_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be an age such as"):
        age_option(text)
