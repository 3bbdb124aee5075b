"""A cursor says where a page ended, and nothing else is a cursor."""

import base64
import string
from contextlib import suppress
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from handlers.errors import RequestRefused
from handlers.history import NEWEST, Position, decode_cursor, encode_cursor
from schema.errors import ErrorCode
from schema.limits import CURSOR_CHARS_MAX, TIME_MAX, TIME_MIN
from schema.results import ExportRun

positions = st.builds(
    Position,
    created_at=st.datetimes(TIME_MIN.replace(tzinfo=None), TIME_MAX.replace(tzinfo=None), timezones=st.just(UTC)),
    run_id=st.uuids(),
)
organisations = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)


def cursor_of(position: Position, org_id: str = "org-1") -> str:
    facts: dict[str, Any] = position._asdict()
    return encode_cursor(ExportRun.model_construct(**facts), org_id)


def assert_refused(cursor: str, org_id: str = "org-1") -> None:
    with pytest.raises(RequestRefused) as refused:
        decode_cursor(cursor, org_id)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert [detail.field for detail in refused.value.details] == ["cursor"]


@settings(deadline=None)
@given(positions, organisations)
@example(NEWEST, "org-1")
@example(Position(TIME_MIN, NEWEST.run_id), "org-1")
@example(Position(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), NEWEST.run_id), "org-1")
def test_a_cursor_leads_back_to_its_position(position: Position, org_id: str) -> None:
    cursor = cursor_of(position, org_id)
    assert decode_cursor(cursor, org_id) == position
    assert len(cursor) <= CURSOR_CHARS_MAX
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum()


@settings(deadline=None)
@given(positions, organisations, organisations)
def test_a_cursor_of_another_organisation_is_refused(position: Position, one: str, other: str) -> None:
    assume(one != other)
    assert_refused(cursor_of(position, one), other)


@settings(deadline=None, max_examples=300)
@given(positions, st.data())
def test_a_cursor_with_one_other_character_is_refused(position: Position, data: st.DataObject) -> None:
    cursor = cursor_of(position)
    at = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from("AZaz09-_+/=.") | st.characters())
    assume(other != cursor[at])
    assert_refused(cursor[:at] + other + cursor[at + 1 :])


@settings(deadline=None)
@given(positions, st.data())
def test_a_cursor_with_a_character_more_or_less_is_refused(position: Position, data: st.DataObject) -> None:
    cursor = cursor_of(position)
    at = data.draw(st.integers(0, len(cursor)))
    assert_refused(cursor[:at] + data.draw(st.sampled_from("Aa0-_+/=") | st.characters()) + cursor[at:])
    assert_refused(cursor[: at - 1] + cursor[at:] if at else cursor[1:])


def test_a_cursor_has_one_spelling() -> None:
    """Base64 leaves bits over in the last character, and Python reads two alphabets at once."""
    cursor = cursor_of(Position(datetime(2026, 1, 31, tzinfo=UTC), NEWEST.run_id))
    taken = []
    for at, other in product(range(len(cursor)), string.ascii_letters + string.digits + "-_+/="):
        changed = cursor[:at] + other + cursor[at + 1 :]
        with suppress(RequestRefused):
            decode_cursor(changed, "org-1")
            taken.append(changed)
    assert set(taken) == {cursor}


def test_every_bit_of_a_cursor_counts() -> None:
    cursor = cursor_of(NEWEST)
    packed = base64.urlsafe_b64decode(cursor + "=")
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert_refused(base64.urlsafe_b64encode(flipped).decode().rstrip("="))


@pytest.mark.parametrize("cursor", ["", "=", "A", "AAAA", "A" * 43, "/" * 43, "\u00e9" * 43, "x" * 200])
def test_what_never_was_a_cursor_is_refused(cursor: str) -> None:
    assert_refused(cursor)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_is_a_cursor_by_accident(cursor: str) -> None:
    assert_refused(cursor)
