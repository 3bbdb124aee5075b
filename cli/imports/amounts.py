"""Amounts as people write them: with signs, brackets, and the currency beside them."""

import re
from dataclasses import dataclass
from typing import Final

_SPACES: Final = re.compile(r"[\s\u00a0\u2009\u202f]+")
_MINUS: Final = "\u2212"
_CURRENCY: Final = r"[A-Z]{3}|[€£$¥]|[Kk]r\.?"
_CODES: Final = {"€": "EUR", "£": "GBP"}
"""Symbols of one currency. Many countries have dollars and crowns."""


@dataclass(frozen=True, slots=True)
class ReadAmount:
    """An amount as the contract has it, and the currency beside it, if there is one that can only be one."""

    text: str
    currency: str | None


class AmountReader:
    """Reads amounts with a decimal sign and a thousands sign."""

    def __init__(self, decimal_sign: str, thousands_sign: str) -> None:
        self._space = " " if thousands_sign == " " else ""
        separated = {".": r"\.", ",": ",", " ": " ", "'": "['\u2019]", "": "(?!)"}[thousands_sign]
        number = rf"(?P<whole>\d+|\d{{1,3}}(?:{separated}\d{{3}})+)(?:{re.escape(decimal_sign)}(?P<fraction>\d+))?"
        self._pattern = re.compile(
            rf"(?P<open>\()?(?P<sign1>[+-]?)(?P<before>{_CURRENCY})? ?(?P<sign2>[+-]?){number}"
            rf"(?P<sign3>-?) ?(?P<after>{_CURRENCY})?(?P<close>\))?"
        )

    def read(self, text: str) -> ReadAmount | None:
        """The amount that a text says; None if it says none, or may mean two."""
        match = self._pattern.fullmatch(_SPACES.sub(self._space, text.strip()).replace(_MINUS, "-"))
        if match is None:
            return None
        signs = [match[name] for name in ("sign1", "sign2", "sign3", "open") if match[name]]
        if len(signs) > 1 or bool(match["open"]) != bool(match["close"]) or (match["before"] and match["after"]):
            return None
        minus = "-" if signs and signs[0] != "+" else ""
        whole = re.sub(r"\D", "", match["whole"])
        fraction = f".{match['fraction']}" if match["fraction"] else ""
        beside = match["before"] or match["after"] or ""
        currency = beside if re.fullmatch("[A-Z]{3}", beside) else _CODES.get(beside)
        return ReadAmount(f"{minus}{whole}{fraction}", currency)
