"""One spelling for each claim id, so that a claim has one row, one lock and one lease however it is written.

The canonical form of a claim id is the text without invisible characters, without white space at its ends, in Unicode's
normalization form C. Case and leading zeros mean something and stay. Claim ids are stored and compared in this form;
replies use the spelling of their request. sql/migrations has the same rule once more, for what was stored before it.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from . import limits

INVISIBLE: Final = (
    "\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""The characters of category Cf, and those that Unicode calls Default_Ignorable_Code_Point: as a part of a character
class of a regular expression. A fixed list, so that no upgrade changes which claims are the same."""

NORMALIZED_SINCE_UNICODE_15: Final = (
    "\u0897\U000105c9\U000105d2\U000105da\U000105e4\U00010d69-\U00010d6d\U00010efd-\U00010eff\U00011382-\U00011385"
    "\U0001138b\U0001138e\U00011390\U00011391\U000113b8\U000113bb\U000113c2\U000113c5\U000113c7-\U000113c9"
    "\U000113ce-\U000113d0\U00011f41\U00011f42\U0001611e-\U00016129\U0001612f\U00016d63\U00016d67-\U00016d6a\U0001e08f"
    "\U0001e4ec-\U0001e4ef\U0001e5ee\U0001e5ef"
)
"""Characters that Unicode 14, the version of Python 3.11, does not have, and that normalization changes in a later
version. A text with one of them is not normalized, so that every Python and every PostgreSQL gives the same form."""

_INVISIBLE: Final = re.compile(f"[{INVISIBLE}]")
_NORMALIZED_SINCE_UNICODE_15: Final = re.compile(f"[{NORMALIZED_SINCE_UNICODE_15}]")

_SLICE: Final = 1000
"""Claim ids that are checked at a time: their texts fit into a processor's cache."""


class RespelledClaimId(str):
    """A claim id in its canonical form that was sent in another `spelling`."""

    __slots__ = ("spelling",)

    spelling: str


def canonical_claim_id(text: str) -> str:
    """The one spelling of a claim id. It is empty where the text holds only white space and invisible characters."""
    if text.isascii():
        return text.strip()
    # NFC comes last: without an invisible character between them two characters may become one.
    visible = _INVISIBLE.sub("", text).strip()
    return visible if _NORMALIZED_SINCE_UNICODE_15.search(visible) else unicodedata.normalize("NFC", visible)


def in_canonical_form(text: str) -> str:
    """A claim id in its canonical form, which remembers how it was sent. Raises ValueError for one that is too long."""
    if text.isascii() and " " not in text:
        return text
    claim_id = canonical_claim_id(text)
    if claim_id == text:
        return text
    if len(claim_id) > limits.TEXT_CHARS_MAX:
        raise ValueError(f"must have at most {limits.TEXT_CHARS_MAX} characters in Unicode's form NFC")
    respelled = RespelledClaimId(claim_id)
    respelled.spelling = text
    return respelled


def all_in_canonical_form(texts: list[str]) -> list[str]:
    """What in_canonical_form makes of each text. It takes a few nanoseconds for each as long as all are of printable
    ASCII without spaces, so that an event of 50,000 claims is read as fast as without it.
    """
    for start in range(0, len(texts), _SLICE):
        joined = "".join(texts[start : start + _SLICE])
        if not joined.isascii() or " " in joined:
            break
    else:
        return texts
    claim_ids: list[str] = []
    for number, text in enumerate(texts):
        try:
            claim_ids.append(in_canonical_form(text))
        except ValueError as error:
            raise ValueError(f"entry {number} {error}") from None
    return claim_ids


def by_spelling(claim_ids: Iterable[str]) -> dict[str, str]:
    """Claim ids by the spelling that they were sent in: each spelling once, in the order of their first place."""
    return {
        claim_id.spelling if isinstance(claim_id, RespelledClaimId) else claim_id: claim_id for claim_id in claim_ids
    }


def spelling_of(claim_id: str) -> str:
    """How a claim id was sent."""
    return claim_id.spelling if isinstance(claim_id, RespelledClaimId) else claim_id
