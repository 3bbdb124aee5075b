"""The mapping that is suggested for a file: which row has its headings, and what is left open in place of guessed."""

import shutil
import tomllib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from cli.console import FileRefused
from cli.imports.mapping import read_mapping
from cli.imports.plan import ImportPlan, Plan
from cli.imports.recognition import open_record_file
from cli.imports.suggestion import Suggestion, suggested_mapping
from cli.imports.vocabulary import columns_of_fields
from tests.pages import ROOT

EXAMPLES = ROOT / "examples" / "import"

TABLE = [
    ["Batch", "Claim no", "Export date", "Amount", "Currency"],
    ["1", "a-1", "2024-01-31", "12.50", "EUR"],
    ["1", "a-2", "2024-01-31", "8.00", "EUR"],
]
COLUMNS = {"claimId": "Claim no", "createdAt": "Export date", "amount": "Amount", "currency": "Currency"}

ORGANISATION = {'# orgId = "your organisation"': 'orgId = "org-1"'}


def written(folder: Path, rows: Sequence[Sequence[Any]], kind: str) -> Path:
    """A file with these rows, CSV or XLSX."""
    path = folder / f"table.{kind}"
    if kind == "csv":
        path.write_text("\n".join(";".join(map(str, row)) for row in rows) + "\n", encoding="utf-8")
        return path
    workbook = Workbook()
    sheet = workbook.active
    assert sheet is not None
    for row in rows:
        sheet.append([cell or None for cell in row])
    workbook.save(path)
    return path


def parsed(suggestion: Suggestion) -> dict[str, Any]:
    return tomllib.loads(suggestion.toml)


async def planned(path: Path, toml: str, decided: dict[str, str] = ORGANISATION) -> Plan:
    """What an import would do by this mapping, after a person has decided what was open."""
    mapping = path.with_name("mapping.toml")
    for old, new in decided.items():
        toml = toml.replace(old, new)
    mapping.write_text(toml, encoding="utf-8")
    columns = read_mapping(mapping)
    with ImportPlan("s", columns, open_record_file(path, columns), path.parent, with_alerts=False) as importing:
        importing.read_rows(lambda done, total: None)
        await importing.build(None, lambda done, total: None)
        return importing.plan


ABOVE: dict[str, list[list[str]]] = {
    "nothing": [],
    "a title and a date": [["Expenses sent to the bookkeeper"], ["31.01.2024"], []],
    "a comment": [["# written by hand, do not sort"]],
    "a comment that is divided as the table is": [["# batch", "claim", "date", "amount", "currency"]],
    "DATEV's line": [["EXTF", "700", "21", "Buchungsstapel", "13", "20240205101500000", "", "RE"]],
    "names and values": [["Company", "Example GmbH"], ["Printed by", "Ann"], ["Period", "January 2024"], []],
    "Excel's line": [["sep=", ""]],
    "blank rows": [[], ["", ""], []],
}


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
@pytest.mark.parametrize("above", ABOVE.values(), ids=ABOVE)
async def test_the_headings_are_found_below_other_rows(tmp_path: Path, above: list[list[str]], kind: str) -> None:
    path = written(tmp_path, [*above, *TABLE], kind)
    suggestion = suggested_mapping(path)
    mapping = parsed(suggestion)
    assert (mapping["run_key"], mapping["columns"]) == (["Batch"], COLUMNS)
    assert suggestion.notes[0].startswith(f"The headings are in row {len(above) + 1}.")
    said = [row for row in above if any(row)]
    assert len([note for note in suggestion.notes if note.startswith("  row ")]) == len(said)
    for row in said:
        assert f'"{row[0]}"' in suggestion.toml
    plan = await planned(path, suggestion.toml)
    assert (plan.runs, plan.claims, plan.rejected_rows) == (1, 2, 0)


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
async def test_words_that_are_not_known_are_headings_where_nothing_else_can_be(tmp_path: Path, kind: str) -> None:
    rows = [["Liste"], ["Erä", "Kuitti", "Päivä"], ["1", "a-1", "2024-01-31"]]
    suggestion = suggested_mapping(written(tmp_path, rows, kind))
    assert suggestion.notes == [
        "The headings are in row 2. Rows above them are not read:",
        '  row 1: "Liste"',
        "Left open: run_key, claimId, createdAt, orgId.",
    ]


UNCLEAR: dict[str, tuple[list[list[str]], str]] = {
    "no headings": ([["1", "a-1", "2024-01-31"], ["1", "a-2", "2024-01-31"]], "none of its first 50 rows has headings"),
    "two rows of unknown words": (
        [["Yksi", "Kaksi"], [], ["Kolme", "Neljä"], ["1", "2024-01-31"]],
        "it is not clear which row has the headings: 1 or 3",
    ),
    "only words": ([["Kuitti", "Kuka"], ["taksi", "Anna"], ["hotelli", "Bo"]], "1 or 2"),
    "two tables": (
        [["Claim", "Amount"], ["a", "1"], [], ["Claim no", "Total"], ["b", "2"]],
        "it is not clear which row has the headings: 1 or 4",
    ),
    "no words above some columns": ([["Erä", "Kuitti", ""], ["1", "2", "2024-01-31"]], "columns of the rows below"),
    "only headings": ([["A list"], ["Claim", "Date"]], "has headings in row 2, and no rows below them"),
    "blank rows": ([[], ["", ""]], "has no rows"),
    "headings far down": ([["Title"]] * 50 + TABLE, "none of its first 50 rows has headings"),
}


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
@pytest.mark.parametrize(("rows", "words"), UNCLEAR.values(), ids=UNCLEAR)
def test_where_the_headings_are_not_clear_there_is_no_mapping(
    tmp_path: Path, rows: list[list[str]], words: str, kind: str
) -> None:
    with pytest.raises(FileRefused) as refused:
        suggested_mapping(written(tmp_path, rows, kind))
    assert words in str(refused.value)


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
async def test_headings_of_two_rows_are_joined_where_one_does_not_say_enough(tmp_path: Path, kind: str) -> None:
    rows = [["Export", "", "Claim", ""], ["Id", "Date", "Id", "Amount"], ["1", "2024-01-31", "a", "5"]]
    path = written(tmp_path, rows, kind)
    mapping = parsed(suggested_mapping(path))
    assert (mapping["header_rows"], mapping["columns"]["amount"]) == (2, "Claim / Amount")
    rows = [["Datum", "Beleg", "Stapel"], ["Date", "Claim", "Batch"], ["2024-01-31", "a", "5"]]
    mapping = parsed(suggested_mapping(written(tmp_path, rows, kind)))
    assert (mapping["header_rows"], mapping["run_key"]) == (2, ["Stapel / Batch"])


def test_a_heading_that_comes_twice_is_left_open(tmp_path: Path) -> None:
    rows = [["Batch", "Claim", "Date", "Amount", "Amount"], ["1", "a", "2024-01-31", "5", "6"]]
    suggestion = suggested_mapping(written(tmp_path, rows, "csv"))
    assert "amount" not in parsed(suggestion)["columns"]
    assert '# amount = "Amount (1)"\n# amount = "Amount (2)"\n' in suggestion.toml
    assert suggestion.notes[-1] == "Left open: amount, orgId."


async def test_a_heading_of_200_columns_is_read(tmp_path: Path) -> None:
    others = [f"Field {number}" for number in range(195)]
    path = written(tmp_path, [["A list"], [*TABLE[0], *others], *([*row, *["x"] * 195] for row in TABLE[1:])], "csv")
    suggestion = suggested_mapping(path)
    assert parsed(suggestion)["columns"] == COLUMNS
    assert max(map(len, suggestion.toml.splitlines())) < 130
    assert (await planned(path, suggestion.toml)).claims == 2
    path.with_name("mapping.toml").write_text((path.with_name("mapping.toml")).read_text().replace("Claim no", "Nr"))
    columns = read_mapping(path.with_name("mapping.toml"))
    with pytest.raises(FileRefused, match=r"has no column Nr; its columns are: Batch, .* and 160 more$"):
        list(open_record_file(path, columns).rows())


def test_a_mapping_is_refused_until_its_organisation_is_written(tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(suggested_mapping(written(tmp_path, TABLE, "csv")).toml)
    with pytest.raises(FileRefused, match="orgId must be given"):
        read_mapping(path)


DATES = [
    (["31.01.2024", "1.2.2024"], ['date_formats = ["%d.%m.%Y"]']),
    (["31.01.24"], ['date_formats = ["%d.%m.%y"]']),
    (["1.3.2024", "2024-03-02", "02.03.24"], ['date_formats = ["%d.%m.%Y", "%d.%m.%y"]']),
    (["1-Mar-24", "12-Mar-24"], ['date_formats = ["%d-%b-%y"]']),
    (["2024/03/01"], ['date_formats = ["%Y/%m/%d"]']),
    (["20240131"], ['date_formats = ["%Y%m%d"]']),
    (["45322"], ['date_formats = ["excel"]']),
    (["3101", "2902"], ['date_formats = ["%d%m"]', "# year = 2024  # these dates have no year"]),
    (["01/02/2024"], ['# date_formats = ["%m/%d/%Y"]', '# date_formats = ["%d/%m/%Y"]']),
    (["13/02/2024", "02/13/2024"], ['# date_formats = ["%m/%d/%Y"]', '# date_formats = ["%d/%m/%Y"]']),
    (["13/02/2024", "01/02/2024"], ['date_formats = ["%d/%m/%Y"]']),
    (["31 janv. 2024"], ['# No form that is known fits "31 janv. 2024".']),
    (["2024-01-31T10:00:00Z"], []),
]


@pytest.mark.parametrize(("dates", "lines"), DATES)
def test_forms_of_dates_are_suggested_or_left_open(tmp_path: Path, dates: list[str], lines: list[str]) -> None:
    path = written(tmp_path, [["Batch", "Claim", "Date"], *(["1", "a", each] for each in dates)], "csv")
    text = suggested_mapping(path).toml.splitlines()
    assert [line for line in text if "date_formats = " in line or "# year" in line or "No form" in line] == lines


AMOUNTS = [
    (["48,50", "310,00"], ['decimal_sign = ","']),
    (["1.234,50", "12,00"], ['decimal_sign = ","', 'thousands_sign = "."']),
    (["1\u202f234,50", "12,00 \u20ac"], ['decimal_sign = ","', 'thousands_sign = " "']),
    (["1,234.50", "12.00-"], ['decimal_sign = "."', 'thousands_sign = ","']),
    (["12", "7"], ['decimal_sign = "."']),
    (
        ["1.234", "2.500"],
        ['# decimal_sign = "."', '# thousands_sign = ","', '# decimal_sign = ","', '# thousands_sign = "."'],
    ),
    (["a lot"], []),
]


@pytest.mark.parametrize(("amounts", "lines"), AMOUNTS)
def test_signs_of_amounts_are_suggested_or_left_open(tmp_path: Path, amounts: list[str], lines: list[str]) -> None:
    rows = [["Batch", "Claim", "Date", "Amount"], *(["1", "a", "2024-01-31", each] for each in amounts)]
    text = suggested_mapping(written(tmp_path, rows, "csv")).toml
    assert [line for line in text.splitlines() if "_sign = " in line] == lines
    assert ("No signs that are known" in text) == (not lines)


def test_words_are_given_a_meaning_only_where_it_is_sure(tmp_path: Path) -> None:
    rows = [["Eksportnr", "Bilagsnr", "Dato", "Status"], ["1", "7", "2024-01-31", "Bokført"]]
    rows += [["1", "8", "2024-01-31", "Avvist"], ["1", "9", "2024-01-31", "Til vurdering"]]
    suggestion = suggested_mapping(written(tmp_path, rows, "csv"))
    mapping = parsed(suggestion)  # rows of one run differ in it, so it is said of claims
    assert (mapping["columns"]["outcome"], mapping["words"]["outcome"]) == (
        "Status",
        {"Bokført": "exported", "Avvist": "skipped"},
    )
    assert '# "Til vurdering" = "?"' in suggestion.toml
    assert "words.outcome" in suggestion.notes[-1]


def test_blank_cells_of_the_run_and_lists_of_claims_are_noticed(tmp_path: Path) -> None:
    rows = [["Sent on", "Claims"], ["2024-01-31", "a; b"], ["", "c; d"]]
    path = tmp_path / "table.csv"
    path.write_text("\n".join("|".join(row) for row in rows))
    text = suggested_mapping(path).toml
    assert '# fill_down = ["Sent on"]' in text
    assert '# run_key = ["Sent on"]\n# run_key = []\n' in text
    assert parsed(suggested_mapping(path))["claim_separator"] == ";"


def test_a_column_without_a_cell_is_none_of_a_field(tmp_path: Path) -> None:
    rows = [["Stapel", "Belegdatum", "Datum Zuord. Steuerperiode", "Belegfeld 1"], ["1", "3101", "", "0017"]]
    assert parsed(suggested_mapping(written(tmp_path, rows, "csv")))["columns"] == {
        "claimId": "Belegfeld 1",
        "createdAt": "Belegdatum",
    }


def test_headings_with_invisible_characters_come_to_a_mapping_that_can_be_read(tmp_path: Path) -> None:
    rows = [["Batch\u00ad", "Claim", "Date", "Note \u200b\U000e0041"], ["1", "a\u00a0b", "2024-01-31", "x"]]
    path = written(tmp_path, rows, "csv")
    assert parsed(suggested_mapping(path))["columns"]["claimId"] == "Claim"


@pytest.mark.parametrize(
    ("heading", "field"),
    [
        ("Exportdatum", "createdAt"),
        ("Eksportdato", "createdAt"),
        ("Date de l\u2019export", "createdAt"),
        ("run.at", "createdAt"),
        ("Währung", "currency"),
        ("Devise", "currency"),
        ("Montant TTC", "amount"),
        ("N° de pièce", "claimId"),
        ("Bilagsnummer", "claimId"),
        ("Belegfeld 1", "claimId"),
        ("Société", "orgId"),
    ],
)
def test_headings_of_several_languages_are_known(heading: str, field: str) -> None:
    assert columns_of_fields([heading]) == {field: [heading]}


def test_objects_inside_a_line_of_json_are_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"export": {"id": 1, "at": "2024-01-31"}, "claim": {"id": "a", "amount": 5}}\n')
    mapping = parsed(suggested_mapping(path))
    assert mapping["run_key"] == ["export.id"]
    assert mapping["columns"] == {"amount": "claim.amount", "claimId": "claim.id", "createdAt": "export.at"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "row 1: the line is no JSON"),
        ('{"a": 1, "a": 2}', "row 1: the line has two members of the same name"),
        ('{"a.b": 1, "a": {"b": 2}}', "row 1: the line has two members of the same name"),
        ('{"a": NaN}', "row 1: the line is no JSON"),
        ('{"a": ' + "[" * 100_000, "row 1: the line is no JSON"),
        ("{}", "has no rows"),
    ],
)
def test_a_line_of_json_that_cannot_be_read_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(FileRefused) as refused:
        suggested_mapping(path)
    assert words in str(refused.value)


def test_of_several_sheets_the_one_that_is_read_is_named(tmp_path: Path) -> None:
    workbook = Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet.title = "Old"
    sheet.sheet_state = "hidden"
    table = workbook.create_sheet("Exports")
    for row in [["Batch", "Claim", "Date"], [1, 417, datetime(2024, 1, 31)]]:  # noqa: DTZ001
        table.append(row)
    workbook.create_sheet("Notes")
    path = tmp_path / "table.xlsx"
    workbook.save(path)
    suggestion = suggested_mapping(path)
    assert parsed(suggestion)["sheet"] == "Exports"
    assert 'Sheets that are not read: "Old", "Notes"' in suggestion.notes


OPEN = {
    "concur.csv": ["orgId"],
    "datev.csv": ["year", "orgId"],
    "expensify.jsonl": ["orgId", "words.outcome"],
    "fortnox.csv": ["run_key", "orgId"],
    "hand-kept.csv": ["run_key", "orgId"],
    "tripletex.csv": ["orgId"],
    "visma.csv": ["orgId"],
}
DECIDED = {
    '# orgId = "your organisation"': 'orgId = "org-1"',
    "# year = 2024": "year = 2024",
    '# "no receipt" = "?"': '"no receipt" = "skipped"',
    '# run_key = ["': 'run_key = ["',
    "# fill_down = ": "fill_down = ",
}


@pytest.mark.parametrize("name", OPEN)
async def test_what_is_suggested_for_an_example_can_be_used_when_the_rest_is_decided(name: str, tmp_path: Path) -> None:
    path = Path(shutil.copy(EXAMPLES / name, tmp_path))
    suggestion = suggested_mapping(path)
    assert suggestion.notes[-1] == f"Left open: {', '.join(OPEN[name])}."
    plan = await planned(path, suggestion.toml, DECIDED)
    assert (plan.runs, plan.rejected_rows) == (
        3 if name in {"concur.csv", "fortnox.csv"} else 2,
        3 * (name == "hand-kept.csv"),
    )


def test_every_example_is_tried() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix != ".toml"} == set(OPEN)


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("Soll/Haben-Kennzeichen", ("S", "H")),
        ("Soll / Haben", ("Soll", "Haben")),
        ("S/H", ("s", "h")),
        ("Debit/Credit", ("Debit", "Credit")),
        ("Debit/Credit Indicator", ("D", "C")),
        ("DR/CR", ("DR", "CR")),
        ("Debet/Kredit", ("D", "K")),
        ("Sens", ("D", "C")),
        ("Sign", ("+", "-")),
    ],
)
async def test_a_column_with_the_sign_of_the_amount_is_known(
    tmp_path: Path, heading: str, words: tuple[str, str]
) -> None:
    rows = [[*TABLE[0], heading], [*TABLE[1], words[0]], [*TABLE[2], words[1]]]
    path = written(tmp_path, rows, "csv")
    suggestion = suggested_mapping(path)
    mapping = parsed(suggestion)
    assert mapping["columns"] == {**COLUMNS, "sign": heading}
    assert mapping["words"]["sign"] == {words[0]: "plus", words[1]: "minus"}
    again = written(tmp_path, [*rows, ["2", "a-2", "2024-02-01", "8.00", "EUR", words[1]]], "csv")
    plan = await planned(again, suggestion.toml)
    assert (plan.rejected_rows, plan.double_exports, plan.double_amounts) == (0, 1, {"EUR": Decimal(0)})


def test_a_sign_whose_words_are_not_known_is_left_open(tmp_path: Path) -> None:
    rows = [[*TABLE[0], "Sign"], [*TABLE[1], "40"], [*TABLE[2], "50"]]
    suggestion = suggested_mapping(written(tmp_path, rows, "csv"))
    assert "Left open: orgId, words.sign." in suggestion.notes
    assert '# "40" = "?"' in suggestion.toml


def test_a_sign_without_an_amount_is_no_column_of_a_mapping(tmp_path: Path) -> None:
    rows = [["Batch", "Claim no", "Export date", "S/H"], ["1", "a-1", "2024-01-31", "S"]]
    assert "sign" not in parsed(suggested_mapping(written(tmp_path, rows, "csv")))["columns"]


@pytest.mark.parametrize(
    ("debit", "credit"), [("Soll", "Haben"), ("Debit", "Credit"), ("Debet", "Kredit"), ("DR", "CR")]
)
async def test_two_columns_of_amounts_are_known(tmp_path: Path, debit: str, credit: str) -> None:
    headings = ["Batch", "Claim no", "Export date", debit, credit, "Currency"]
    rows = [headings, ["1", "a-1", "2024-01-31", "12,50", "", "EUR"], ["2", "a-1", "2024-02-01", "", "12,50", "EUR"]]
    path = written(tmp_path, rows, "csv")
    suggestion = suggested_mapping(path)
    columns = {
        "claimId": "Claim no",
        "createdAt": "Export date",
        "debit": debit,
        "credit": credit,
        "currency": "Currency",
    }
    assert parsed(suggestion)["columns"] == columns
    plan = await planned(path, suggestion.toml)
    assert (plan.rejected_rows, plan.double_exports, plan.double_amounts) == (0, 1, {"EUR": Decimal(0)})


def test_debit_and_credit_beside_an_amount_may_be_accounts(tmp_path: Path) -> None:
    rows = [[*TABLE[0], "Debit", "Credit"], [*TABLE[1], "4663", "70017"]]
    assert parsed(suggested_mapping(written(tmp_path, rows, "csv")))["columns"] == COLUMNS
