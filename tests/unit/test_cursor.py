"""A cursor says where a page ended. Every text that is not one is refused."""

import base64
import string
from contextlib import suppress
from datetime import UTC, datetime
from itertools import product

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from handlers.cursors import (
    NEWEST,
    OLDEST,
    Bookmark,
    Position,
    decode_claim_cursor,
    decode_cursor,
    encode_claim_cursor,
    encode_cursor,
)
from handlers.errors import RequestRefused
from schema.errors import ErrorCode
from schema.limits import CURSOR_CHARS_MAX, TEXT_CHARS_MAX, TIME_MAX, TIME_MIN

times = st.datetimes(TIME_MIN.replace(tzinfo=None), TIME_MAX.replace(tzinfo=None), timezones=st.just(UTC))
positions = st.builds(Position, created_at=times, run_id=st.uuids())
AS_OF = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
organisations = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)


def cursor_of(position: Position, org_id: str = "org-1", as_of: datetime = AS_OF) -> str:
    return encode_cursor(Bookmark(position, as_of), org_id)


def assert_refused(cursor: str, org_id: str = "org-1") -> None:
    with pytest.raises(RequestRefused) as refused:
        decode_cursor(cursor, org_id)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert [detail.field for detail in refused.value.details] == ["cursor"]


@given(positions, organisations, times)
@example(NEWEST, "org-1", TIME_MAX)
@example(OLDEST, "org-1", TIME_MIN)
@example(Position(TIME_MIN, NEWEST.run_id), "org-1", AS_OF)
@example(Position(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), NEWEST.run_id), "org-1", AS_OF)
def test_a_position_is_the_same_after_encoding_and_decoding(position: Position, org_id: str, as_of: datetime) -> None:
    cursor = cursor_of(position, org_id, as_of)
    assert decode_cursor(cursor, org_id) == (position, as_of)
    assert len(cursor) <= CURSOR_CHARS_MAX
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(positions, organisations, organisations)
def test_a_cursor_of_another_organisation_is_refused(position: Position, one: str, other: str) -> None:
    assume(one != other)
    assert_refused(cursor_of(position, one), other)


@settings(max_examples=300)
@given(positions, st.data())
def test_a_cursor_with_one_character_changed_is_refused(position: Position, data: st.DataObject) -> None:
    cursor = cursor_of(position)
    at = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from("AZaz09-_+/=.") | st.characters())
    assume(other != cursor[at])
    assert_refused(cursor[:at] + other + cursor[at + 1 :])


@given(positions, st.data())
def test_a_cursor_with_one_character_more_or_less_is_refused(position: Position, data: st.DataObject) -> None:
    cursor = cursor_of(position)
    at = data.draw(st.integers(0, len(cursor)))
    assert_refused(cursor[:at] + data.draw(st.sampled_from("Aa0-_+/=") | st.characters()) + cursor[at:])
    assert_refused(cursor[: at - 1] + cursor[at:] if at else cursor[1:])


def test_a_cursor_has_one_spelling() -> None:
    """A decoder of base64 may ignore some bits of the last character, and Python's takes two alphabets."""
    cursor = cursor_of(Position(datetime(2026, 1, 31, tzinfo=UTC), NEWEST.run_id))
    decoded = []
    for at, other in product(range(len(cursor)), string.ascii_letters + string.digits + "-_+/="):
        changed = cursor[:at] + other + cursor[at + 1 :]
        with suppress(RequestRefused):
            decode_cursor(changed, "org-1")
            decoded.append(changed)
    assert set(decoded) == {cursor}


def test_a_cursor_with_one_bit_changed_is_refused() -> None:
    cursor = cursor_of(NEWEST)
    packed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for bit in range(len(packed) * 8):
        changed = bytearray(packed)
        changed[bit // 8] ^= 1 << bit % 8
        assert_refused(base64.urlsafe_b64encode(changed).decode().rstrip("="))


@pytest.mark.parametrize("cursor", ["", "=", "A", "AAAA", "A" * 43, "A" * 54, "/" * 54, "\u00e9" * 54, "x" * 200])
def test_a_text_that_was_never_a_cursor_is_refused(cursor: str) -> None:
    assert_refused(cursor)


@given(st.text(max_size=200))
def test_a_random_text_is_refused(cursor: str) -> None:
    assert_refused(cursor)


claims = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=TEXT_CHARS_MAX)


@given(claims, organisations)
@example("\U0001f9fe" * TEXT_CHARS_MAX, "org-1")
@example("\U0001f9fe" * (TEXT_CHARS_MAX - 1) + "x", "org-1")
def test_a_claim_id_is_the_same_after_encoding_and_decoding(claim_id: str, org_id: str) -> None:
    cursor = encode_claim_cursor(claim_id, org_id)
    assert decode_claim_cursor(cursor, org_id) == claim_id
    assert len(cursor) <= CURSOR_CHARS_MAX
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(claims, st.text(max_size=50))
@example("c-1", "AA")
@example("c-1", "\ud800")
@example("c-1", base64.urlsafe_b64encode(bytes(8) + b"\xff").decode())
def test_every_other_text_is_refused_as_a_cursor_of_a_claim(claim_id: str, text: str) -> None:
    for cursor in (text, encode_claim_cursor(claim_id, "org-1") + text, text + encode_claim_cursor(claim_id, "org-1")):
        if cursor == encode_claim_cursor(claim_id, "org-1"):
            continue
        with pytest.raises(RequestRefused) as refused:
            decode_claim_cursor(cursor, "org-1")
        assert [detail.field for detail in refused.value.details] == ["cursor"]


@given(claims, positions)
def test_a_cursor_of_the_other_kind_is_refused(claim_id: str, position: Position) -> None:
    with pytest.raises(RequestRefused):
        decode_cursor(encode_claim_cursor(claim_id, "org-1"), "org-1")
    with pytest.raises(RequestRefused):
        decode_claim_cursor(encode_cursor(Bookmark(position, AS_OF), "org-1"), "org-1")
