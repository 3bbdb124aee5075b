"""Claim ids that look the same are one claim, whatever way they are written."""

import json
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.claim_ids import (
    INVISIBLE,
    NORMALIZED_SINCE_UNICODE_15,
    RespelledClaimId,
    by_spelling,
    canonical_claim_id,
    spelling_of,
)
from schema.decoding import InvalidBody, decode
from schema.events import RunFinished
from schema.limits import EVENT_CLAIMS_MAX, TEXT_CHARS_MAX
from schema.requests import CheckClaims, FindRunsByClaimId
from tests.wire import run_finished

CODE_POINTS = [chr(number) for number in range(sys.maxunicode + 1) if not 0xD800 <= number <= 0xDFFF]
is_later = re.compile(f"[{NORMALIZED_SINCE_UNICODE_15}]").search
is_invisible = re.compile(f"[{INVISIBLE}]").search

odd_texts = st.text(
    st.sampled_from(
        "aA1eE\u00e9\u0301\u0323\u0338\u212b\u1100\u1161\u11a8\u0958\u200b\u200d\ufeff\u00ad\u202e\ufe0f\u034f\U000e0041"
        " \u00a0\u2003\u3000\t\U00016d63\U00016d67\u0897=<\u2000\u0344\u1160"
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=12,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("taxi-17", "taxi-17"),
        ("  taxi 17 ", "taxi 17"),
        ("\u00a0taxi-17\u3000", "taxi-17"),
        ("\ufefftaxi-17\u200b", "taxi-17"),
        ("\u200b taxi-17 \u200b", "taxi-17"),
        ("ta\u00adxi\u2060-17", "taxi-17"),
        ("caf\u0065\u0301", "caf\u00e9"),
        ("caf\u0065\u200d\u0301", "caf\u00e9"),
        ("\u212b", "\u00c5"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        ("Taxi-017", "Taxi-017"),
        ("\uff21", "\uff21"),
        (" \u200b\u00a0", ""),
    ],
)
def test_the_canonical_form(text: str, canonical: str) -> None:
    assert canonical_claim_id(text) == canonical


@given(odd_texts)
def test_the_canonical_form_of_a_canonical_form_is_itself(text: str) -> None:
    once = canonical_claim_id(text)
    assert canonical_claim_id(once) == once
    assert once == once.strip()
    assert not is_invisible(once)


@given(odd_texts, st.sampled_from(["NFC", "NFD"]))
def test_how_a_sender_normalizes_does_not_matter(text: str, form: str) -> None:
    """Nor whether it does so before or after it removes white space and invisible characters."""
    if is_later(text):
        return
    sent = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    assert canonical_claim_id(sent) == canonical_claim_id(text)


@given(st.lists(st.sampled_from(["a", "e\u0301", "\u1100", "\u1161", "x y"]), min_size=1, max_size=5), st.data())
def test_invisible_characters_do_not_matter_wherever_they_are(pieces: list[str], data: st.DataObject) -> None:
    noise = st.text(st.sampled_from("\u200b\u200d\ufeff\u00ad\u2066\ufe0f"), max_size=2)
    edge = st.text(st.sampled_from(" \u00a0\u200b\u3000"), max_size=3)
    clean = "".join(pieces)
    noisy = "".join(character + data.draw(noise) for character in clean)
    assert canonical_claim_id(data.draw(edge) + noisy + data.draw(edge)) == canonical_claim_id(clean)


def test_every_character_of_category_cf_is_invisible() -> None:
    assert [each for each in CODE_POINTS if unicodedata.category(each) == "Cf" and not is_invisible(each)] == []


def test_normalization_makes_nothing_invisible_and_no_white_space_of_what_was_none() -> None:
    for character in CODE_POINTS:
        normal = unicodedata.normalize("NFC", character)
        assert is_invisible(character) or not is_invisible(normal)
        assert normal.isspace() == character.isspace()


@pytest.mark.parametrize("character", ["\u0897", "\U00016d67", "\U0001e5ef"])
def test_characters_that_only_later_versions_normalize_are_left_as_they_are(character: str) -> None:
    text = f"a{character}\u0323"
    assert canonical_claim_id(f" {text} ") == text


def decoded_claims(*claim_ids: str) -> list[str]:
    return decode(RunFinished, json.dumps(run_finished(claimIds=claim_ids)).encode()).claim_ids


def test_events_and_requests_hold_canonical_forms_and_remember_the_spelling() -> None:
    [claim_id] = decoded_claims(" caf\u0065\u0301\u200b")
    assert (claim_id, spelling_of(claim_id)) == ("caf\u00e9", " caf\u0065\u0301\u200b")
    request = decode(FindRunsByClaimId, json.dumps({"claimId": "\ufeffa"}).encode())
    assert (request.claim_id, spelling_of(request.claim_id)) == ("a", "\ufeffa")
    [skipped] = decode(
        RunFinished, json.dumps(run_finished(skippedClaims=[{"claimId": "b ", "reason": "r"}])).encode()
    ).skipped_claims
    assert skipped.claim_id == "b"


def test_a_client_that_sends_a_model_sends_its_own_spelling() -> None:
    request = CheckClaims(org_id="o", claim_ids=[" a", "b", "e\u0301"])
    assert json.loads(request.model_dump_json())["claimIds"] == [" a", "b", "e\u0301"]


def test_spellings_are_told_apart_and_keep_their_order() -> None:
    request = CheckClaims(org_id="o", claim_ids=["b ", "a", "b", "b ", "a"])
    assert list(by_spelling(request.claim_ids).items()) == [("b ", "b"), ("a", "a"), ("b", "b")]


@pytest.mark.parametrize("clean", [["a-1", "b_2", "(c)"], []], ids=["ascii", "none"])
def test_what_is_canonical_already_stays_the_same_object(clean: list[str]) -> None:
    claim_ids = decoded_claims(*clean)
    assert claim_ids == clean
    assert not any(isinstance(claim_id, RespelledClaimId) for claim_id in claim_ids)


@pytest.mark.parametrize("odd", ["x ", " x", "e\u0301", "x\u200b", "a b "])
@pytest.mark.parametrize("place", [0, 999, 1000, EVENT_CLAIMS_MAX - 1])
def test_one_odd_id_among_many_is_found_wherever_it_is(odd: str, place: int) -> None:
    claim_ids = [f"c-{number}" for number in range(EVENT_CLAIMS_MAX)]
    claim_ids[place] = odd
    assert decoded_claims(*claim_ids)[place] == canonical_claim_id(odd)


@pytest.mark.parametrize("blank", [" ", "\u200b", "\u00a0\ufeff", "\u3164", "\u00ad \u2060"])
def test_an_id_without_a_visible_character_is_invalid(blank: str) -> None:
    with pytest.raises(InvalidBody) as invalid:
        decoded_claims("a", blank)
    assert [(each.field, each.message) for each in invalid.value.details] == [
        ("claimIds.1", "must not be blank or hold control characters")
    ]


def test_both_the_sent_and_the_stored_form_have_at_most_200_characters() -> None:
    """U+0958 has two characters in NFC."""
    assert decoded_claims(" " * (TEXT_CHARS_MAX - 1) + "x") == ["x"]
    assert len(decoded_claims("\u0958" * (TEXT_CHARS_MAX // 2))[0]) == TEXT_CHARS_MAX
    with pytest.raises(InvalidBody, match=r"claimIds\.0: String should have at most 200 characters"):
        decoded_claims(" " * TEXT_CHARS_MAX + "x")
    with pytest.raises(InvalidBody, match="claimIds: entry 1 must have at most 200 characters in Unicode's form NFC"):
        decoded_claims("a", "\u0958" * (TEXT_CHARS_MAX // 2) + "x")
    with pytest.raises(InvalidBody, match="claimId: must have at most 200 characters in Unicode's form NFC"):
        decode(FindRunsByClaimId, json.dumps({"claimId": "\u0958" * TEXT_CHARS_MAX}).encode())
