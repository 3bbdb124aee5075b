"""Amounts as people write them: with signs, brackets, and the currency beside them."""

import re
from dataclasses import dataclass
from typing import Final

_SPACES: Final = re.compile(r"\s+")
_MINUS: Final = re.compile("[\u2212\u2013\ufe63\uff0d]")
"""A minus sign, and what stands for it: a dash, or a wide or a small hyphen."""

_CURRENCY: Final = r"[A-Z]{3}|[€£$¥]|[Kk]r\.?|[Ee]uro|EURO"
_CODES: Final = {"€": "EUR", "£": "GBP", "euro": "EUR"}
"""Words and symbols of one currency. Many countries have dollars and crowns."""


@dataclass(frozen=True, slots=True)
class ReadAmount:
    """An amount as the contract has it, and the currency beside it, if there is one that can only be one."""

    text: str
    currency: str | None


class AmountReader:
    """Reads amounts with a decimal sign and a thousands sign."""

    def __init__(self, decimal_sign: str, thousands_sign: str) -> None:
        self._has_thousands = bool(thousands_sign)
        separated = {".": r"\.", ",": ",", " ": " ", "'": "['\u2019]", "": "(?!)"}[thousands_sign]
        sign = re.escape(decimal_sign)
        whole = rf"(?P<whole>\d+|\d{{1,3}}(?:{separated}\d{{3}})+)"
        fraction = rf"(?:{sign}(?:(?P<fraction>\d+)|[-\u2014]{{1,2}}))?"  # a line in place of digits means none
        self._pattern = re.compile(
            rf"(?:(?P<open>\() ?)?(?:(?P<sign1>[+-]) ?)?(?P<before>{_CURRENCY})? ?(?:(?P<sign2>[+-]) ?)?"
            rf"{whole}{fraction}(?: ?(?P<sign3>-))? ?(?P<after>{_CURRENCY})?(?: ?(?P<close>\)))?",
            re.ASCII,
        )

    def read(self, text: str) -> ReadAmount | None:
        """The amount that a text says; None if it says none, or may mean two.

        Without a thousands sign, three digits after the decimal sign may be thousands: `1.234`.
        """
        match = self._pattern.fullmatch(_SPACES.sub(" ", _MINUS.sub("-", text.strip())))
        if match is None:
            return None
        signs = [match[name] for name in ("sign1", "sign2", "sign3", "open") if match[name]]
        if len(signs) > 1 or bool(match["open"]) != bool(match["close"]) or (match["before"] and match["after"]):
            return None
        fraction = match["fraction"] or ""
        if not self._has_thousands and len(fraction) == 3 and len(match["whole"]) <= 3 and match["whole"] != "0":
            return None
        minus = "-" if signs and signs[0] != "+" else ""
        whole = re.sub(r"\D", "", match["whole"])
        beside = match["before"] or match["after"] or ""
        currency = beside if re.fullmatch("[A-Z]{3}", beside) else _CODES.get(beside.casefold())
        return ReadAmount(f"{minus}{whole}{'.' if fraction else ''}{fraction}", currency)
