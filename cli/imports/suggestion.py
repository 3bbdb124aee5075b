"""A mapping made from the headings of a file and its first rows: a start for a person to go on from."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final

from cli.console import FileRefused
from cli.imports.mapping import FieldName, Mapping
from cli.imports.recognition import open_record_file
from cli.imports.record_files import Cell, plain_text

SAMPLE_ROWS: Final = 200
_CLAIM_SEPARATORS: Final = (";", "|", "\n")

# In the order in which they choose a column: what only one kind of heading can mean comes first.
_HEADINGS: Final[dict[FieldName, str]] = {
    "claimIds": r"claims|claim ids|belege|bilag liste|reports in batch",
    "claimId": r"claim.?(id|no|number|nr)?|report.?(id|key|number|no)|expense.?(id|no)|beleg.?(nr|nummer|feld ?1)?"
    r"|bilag(s?nummer|snr)?|utlegg(snr)?|rechnungs.?(nr|nummer)|verifikat(ion)?s?.?(nr|nummer)?|id",
    "voucherId": r"voucher.?(id|no|number|nr)?|document.?(no|number)|ver.?nr|buchungs.?(nr|nummer)|transaction.?id",
    "voucherUrl": r"url|link",
    "currency": r"currency(.?code)?|w(ä|ae)hrung|wkz.*|valuta|iso",
    "amount": r"(total |approved |claim )?amount|total|sum|betrag|umsatz.*|bel(ø|oe|o|ö)p|summa",
    "periodStart": r"(period|zeitraum).*(from|start|von|fra|fr(å|a)n)",
    "periodEnd": r"(period|zeitraum).*(to|end|bis|til(l)?)",
    "finishedAt": r"(finished|ended|completed|sent|export.*end).*|exportiert am|eksportert.*|exporterad.*",
    "createdAt": r"(created|started|date|datum|dato|(export|extract|posting|run|batch).?date|belegdatum|time"
    r"|bokf(ö|oe)ringsdatum|(export )?at|sent on|when|zeitpunkt|tidspunkt|tidpunkt).*",
    "status": r"(batch|run|export|job).?status|status|state",
    "outcome": r"outcome|result|claim.?status",
    "reason": r"reason|comment|note|bemerkung|grund|merknad|anm(ä|ae)rkning|kommentar",
    "triggeredBy": r"(exported|created|run|sent|triggered).?by|user(.?name)?|by|who|benutzer|bearbeiter|erfasser|bruker"
    r"|anv(ä|ae)ndare|owner|ansatt",
    "targetSystem": r"(target.?)?system|ledger|erp",
    "format": r"(file.?)?format|type|typ",
    "scope": r"scope|department|cost.?cent(er|re)|kostenstelle|kost1.*|avdeling|avdelning|kostnadsst(ä|ae)lle",
    "orgId": r"org(anisation|anization)?(.?id)?|company(.?code)?|entity|mandant|firma|selskap|f(ö|oe)retag",
    "externalAckId": r"ack.*|receipt.*|confirmation.*",
}
_RUN_KEY: Final = r"(batch|run|export|job|extract|stapel|lauf|b(u|o)nt|journal)(.?(id|no|nr|number|nummer|name|key))?"
_DATE_FORMATS: Final = (
    "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S",
    "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%d-%m-%Y", "%Y%m%d", "%d.%m.%y", "%d%m%Y",
    "%Y/%m/%d", "%m/%d/%y", "%d/%m/%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y",
)  # fmt: skip


def suggested_mapping(path: Path) -> str:
    """A mapping in TOML. What cannot be known from the file is a constant to fill in. Raises FileRefused."""
    mapping = Mapping.model_construct(run_key=[], columns={}, fill_down=[], constants={}, words={}, date_formats=[])
    rows = list(islice(open_record_file(path, mapping).rows(), SAMPLE_ROWS))
    if not rows:
        raise FileRefused(f"{path}: has no rows")
    headings = list(dict.fromkeys(heading for row in rows for heading in row.cells))
    samples = {heading: [row.cells.get(heading) for row in rows] for heading in headings}
    return "\n".join(_lines(path, headings, samples)) + "\n"


def _lines(path: Path, headings: Sequence[str], samples: dict[str, list[Cell]]) -> Iterator[str]:
    keys = [heading for heading in headings if _fits(_RUN_KEY, heading)]
    columns = _columns([heading for heading in headings if heading not in keys[:1]])
    time_column = columns.get("createdAt") or columns.get("finishedAt")
    run_key = keys[:1] or [time_column or headings[0]]
    yield f"# A suggestion for {_quoted(path.name)}. Check each line. Columns of the file: {_list(headings)}"
    yield ""
    yield "# Rows that have the same values in these columns are one run."
    yield f"run_key = {_list(run_key)}"
    if time_column and (formats := _formats_of(samples[time_column])):
        if len(formats) > 1:
            yield f"# These fit all of the first rows, and mean different days: {_list(formats)}"
        yield f"date_formats = {_list(formats[:1])}"
    elif time_column and (formats := _mixed_formats_of(samples[time_column])):
        yield "# No form fits all of the first rows; these fit one after the other."
        yield f"date_formats = {_list(formats)}"
    yield 'time_zone = "UTC"'
    yield from _signs(samples.get(columns.get("amount", ""), []))
    yield from _separator(samples.get(columns.get("claimIds", ""), []))
    yield ""
    yield "[columns]"
    if not columns.keys() & {"claimId", "claimIds"}:
        yield '# claimId = "the column that names the claim"'
    for name, heading in columns.items():
        yield f"{name} = {_quoted(heading)}"
    unused = [heading for heading in headings if heading not in columns.values() and heading not in run_key]
    if unused:
        yield f"# not used: {_list(unused)}"
    yield ""
    yield "[constants]"
    for name, value in (("orgId", "your organisation"), ("triggeredBy", "unknown"), ("format", "unknown")):
        if name not in columns:
            yield f"{name} = {_quoted(value)}"
    for name in ("status", "outcome"):
        if name in columns:
            words = sorted({plain_text(cell) for cell in samples[columns[name]]} - {""})[:20]
            yield ""
            meanings = "completed, partial or failed" if name == "status" else "exported, skipped or ignored"
            yield f"[words.{name}]  # {meanings}"
            for word in words:
                yield f"{_quoted(word)} = {_quoted('completed' if name == 'status' else 'exported')}"


def _columns(headings: Sequence[str]) -> dict[FieldName, str]:
    free = list(headings)
    columns: dict[FieldName, str] = {}
    for name, pattern in _HEADINGS.items():
        if name == "claimId" and "claimIds" in columns:
            continue
        if fitting := [heading for heading in free if _fits(pattern, heading)]:
            columns[name] = fitting[0]
            free.remove(fitting[0])
    return columns


def _fits(pattern: str, heading: str) -> bool:
    words = re.sub(r"[_\-./]+", " ", re.sub(r"(?<=[a-zäöøå])(?=[A-Z])", " ", heading.split(" / ")[-1]))
    return re.fullmatch(pattern, words.strip().casefold()) is not None


def _formats_of(cells: Sequence[Cell]) -> list[str]:
    """The forms in which all of these texts are times."""
    texts = {plain_text(cell) for cell in cells if isinstance(cell, str)} - {""}
    return [form for form in _DATE_FORMATS if texts and all(_is_written_as(form, text) for text in texts)]


def _mixed_formats_of(cells: Sequence[Cell]) -> list[str]:
    """The forms in which each of these texts is a time that is not by ISO 8601, those of most texts first."""
    texts = {plain_text(cell) for cell in cells if isinstance(cell, str)} - {""}
    texts = {text for text in texts if not _is_iso(text)}
    formats: list[str] = []
    while texts:
        form = max(_DATE_FORMATS, key=lambda form: sum(_is_written_as(form, text) for text in texts))
        others = {text for text in texts if not _is_written_as(form, text)}
        if others == texts:
            break
        formats.append(form)
        texts = others
    return formats


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _separator(cells: Sequence[Cell]) -> Iterator[str]:
    """What stands between claims, where it is no comma."""
    text = "".join(plain_text(cell) for cell in cells if isinstance(cell, str))
    found = max(_CLAIM_SEPARATORS, key=text.count)
    if text.count(found) > text.count(","):
        yield f"claim_separator = {_quoted(found)}"


def _is_written_as(form: str, text: str) -> bool:
    try:
        datetime.strptime(text, form)  # noqa: DTZ007 -- only whether it can be read
    except ValueError:
        return False
    return True


def _signs(cells: Sequence[Cell]) -> Iterator[str]:
    texts = [plain_text(cell) for cell in cells if isinstance(cell, str)]
    texts = [re.sub("[\u00a0\u202f]", " ", text) for text in texts]
    if any(re.search(r",\d{1,2}\D*$", text) for text in texts):
        yield 'decimal_sign = ","'
        thousands = [sign for sign in (".", " ", "'") if any(sign in text for text in texts)]
    else:
        thousands = [sign for sign in (",", " ", "'") if any(sign in text for text in texts)]
    if thousands:
        yield f"thousands_sign = {_quoted(thousands[0])}"


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _quoted(text: str) -> str:
    """A text as TOML has it, on one line."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", plain) + '"'
