"""What people call the fields of a record and what they write in them, in the languages that this knows."""

import re
from collections.abc import Sequence
from typing import Final

from cli.imports.mapping import WORDS, FieldName

_DEBIT: Final = r"soll|deb(?:i|e|é)t|dr|d|s"
_CREDIT: Final = r"haben|cr(?:e|é)dit|kredit|cr|c|k|h"
_TWO_SIDES: Final = re.compile(rf"\b({_DEBIT}) / ({_CREDIT})\b", re.IGNORECASE)
"""One heading with spaces around its stroke, and no headings above each other."""

# In the order in which they choose a column: what only one kind of heading can mean comes first.
_HEADINGS: Final[dict[FieldName, str]] = {
    "claimIds": r"claims|claim ids|belege|bilag liste|reports in batch|pi(è|e)ces|underlag",
    "claimId": r"claim.?(id|no|number|nr)?|report.?(id|key|number|no)|expense.?(id|no)|beleg.?(nr|nummer|feld ?1)?"
    r"|bilag(s?nummer|snr)?|utlegg(snr)?|rechnungs.?(nr|nummer)|verifikat(ion)?s?.?(nr|nummer)?"
    r"|((n°|nº|no|num(é|e)ro) ?(de )?(la )?)?(pi(è|e)ce|note( de frais)?|justificatif)|id",
    "voucherId": r"voucher.?(id|no|number|nr)?|document.?(no|number)|ver.?nr|buchungs.?(nr|nummer)|transaction.?id",
    "voucherUrl": r"url|link",
    "currency": r"currency(.?code)?|currency alpha iso code|w(ä|ae)hrung|wkz.*|valuta|iso|devise|monnaie",
    "debit": r"((amount|montant) )?(soll|deb(i|e|é)t|dr)( ?(amount|betrag|bel(ø|oe|o|ö)p))?",
    "credit": r"((amount|montant) )?(haben|cr(e|é)dit|kredit|cr)( ?(amount|betrag|bel(ø|oe|o|ö)p))?",
    "sign": rf"(({_DEBIT}) ?({_CREDIT})|({_CREDIT}) ({_DEBIT}))( ?(kz|kennz(eichen)?|ind(icator)?|flag|code|sign|key))?"
    r"|sign|vorzeichen|fortegn|tecken|sens|shkzg",
    "amount": r"(total |approved |claim )?amount|total|sum|betrag|umsatz.*|bel(ø|oe|o|ö)p|summa|montant.*"
    r"|eur|usd|gbp|nok|sek|dkk|chf",
    "periodStart": r"(period|zeitraum|p(é|e)riode).*(from|start|von|fra|fr(å|a)n|du|d(é|e)but)",
    "periodEnd": r"(period|zeitraum|p(é|e)riode).*(to|end|bis|til(l)?|au|fin)",
    "finishedAt": r"(finished|ended|completed|sent|export.*end).*|exportiert am|eksportert.*|exporterad.*"
    r"|(export(é|e)|envoy(é|e)|transmis).*le",
    "createdAt": r"(created|started|date|datum|dato|(export|extract|posting|run|batch).?date|belegdatum|time"
    r"|\w*(datum|dato)|((export|run|batch) )?at|sent on|when|zeitpunkt|tidspunkt|tidpunkt).*",
    "status": r"(batch|run|export|extract|job).?status|status|state|statut|(é|e)tat",
    "outcome": r"outcome|result|claim.?status",
    "reason": r"reason|comment|note|bemerkung|grund|merknad|anm(ä|ae)rkning|kommentar|remark|motif|remarque"
    r"|commentaire",
    "triggeredBy": r"(export(ed)?|created|run|sent|triggered).?by|user(.?name)?|by|who|benutzer|bearbeiter|erfasser"
    r"|bruker|anv(ä|ae)ndare|owner|ansatt|utilisateur|(export(é|e) )?par",
    "targetSystem": r"(target.?)?system|ledger|erp|syst(è|e)me",
    "format": r"(file.?)?format|type|typ",
    "scope": r"scope|department|cost.?cent(er|re)|kostenstelle|kost1.*|avdeling|avdelning|kostnadsst(ä|ae)lle"
    r"|centre de co(û|u)ts?|service",
    "orgId": r"org(anisation|anization)?(.?id)?|company(.?code)?|entity|mandant|firma|selskap|f(ö|oe)retag"
    r"|soci(é|e)t(é|e)|entit(é|e)",
    "externalAckId": r"ack.*|receipt.*|confirmation.*",
}
_RUN_KEY: Final = (
    r"((n°|nº|num(é|e)ro) ?(de |du )?)?"
    r"(batch|run|export|eksport|job|extract|stapel|lauf|b(u|o)nt|journal|lot|envoi)(.?(id|no|nr|number|nummer|name|key))?"
)

_EXPORTED: Final = (
    "sent", "posted", "booked", "ok", "exportiert", "gesendet", "gebucht", "eksportert", "sendt", "bokført",
    "bogført", "exporterad", "skickad", "bokförd", "exporté", "envoyé", "comptabilisé",
)  # fmt: skip
_DEBIT_WORDS: Final = ("s", "soll", "d", "dr", "debit", "debet", "débit")
_CREDIT_WORDS: Final = ("h", "haben", "c", "cr", "credit", "crédit", "k", "kredit")
_MEANINGS: Final[dict[str, dict[str, str]]] = {
    "status": {
        **dict.fromkeys((*_EXPORTED, "exported", "complete", "done", "success"), "completed"),
        **dict.fromkeys(("partly", "teilweise", "delvis", "partiel"), "partial"),
        **dict.fromkeys(("error", "fehler", "fehlgeschlagen", "feilet", "misslyckad", "échec", "erreur"), "failed"),
    },
    "outcome": {
        **dict.fromkeys(_EXPORTED, "exported"),
        **dict.fromkeys(("rejected", "abgelehnt", "avvist", "afvist", "avvisad", "refusé", "rejeté"), "skipped"),
        **dict.fromkeys(("draft", "open", "entwurf", "offen", "utkast", "åpen", "brouillon"), "ignored"),
    },
    "sign": {
        **dict.fromkeys((*_DEBIT_WORDS, "+"), "plus"),
        **dict.fromkeys((*_CREDIT_WORDS, "-", "\u2212"), "minus"),
    },
}


def is_run_key(heading: str) -> bool:
    """Whether a column with this heading names a run."""
    return _fits(_RUN_KEY, heading)


def columns_of_fields(headings: Sequence[str]) -> dict[FieldName, list[str]]:
    """For each field that has a column among these, all those that may be it. A column is of one field at most."""
    free = list(headings)
    columns: dict[FieldName, list[str]] = {}
    for name, pattern in _HEADINGS.items():
        if name == "claimId" and "claimIds" in columns:
            continue
        if fitting := [heading for heading in free if _fits(pattern, heading)]:
            columns[name] = fitting
            free = [heading for heading in free if heading not in fitting]
    return columns


def meaning_of(name: FieldName, word: str) -> str | None:
    """What a word means in this field, where that is sure."""
    text = word.casefold()
    return text if text in WORDS.get(name, ()) else _MEANINGS.get(name, {}).get(text)


def _fits(pattern: str, heading: str) -> bool:
    last = re.sub(r" \(\d+\)$", "", _TWO_SIDES.sub(r"\1/\2", heading).split(" / ")[-1].lstrip("#"))
    words = re.sub(r"[_\-./]+", " ", re.sub(r"(?<=[a-zäöøå])(?=[A-Z])", " ", last))
    return re.fullmatch(pattern, words.strip().casefold()) is not None
