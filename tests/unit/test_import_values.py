"""What the cells of old records are read as, and what is refused in place of being guessed."""

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from cli.console import FileRefused
from cli.imports import sorting
from cli.imports.mapping import Mapping, read_mapping
from cli.imports.plan import ImportPlan, Plan
from cli.imports.recognition import open_record_file
from cli.imports.records import EXCEL_FIRST_DAY, Cell, Row, UnknownResult
from cli.imports.runs import RUN_ROWS_MAX, RefusedRun, build_run
from cli.imports.sorting import ExternalSort
from cli.imports.tables import joined_headings
from cli.imports.values import RowFacts, RowReader
from schema.limits import EVENT_CLAIMS_MAX

MAPPING: dict[str, Any] = {
    "run_key": ["run"],
    "columns": {
        "claimId": "claim",
        "createdAt": "at",
        "amount": "amount",
        "currency": "currency",
        "outcome": "outcome",
    },
    "constants": {"orgId": "org-1", "triggeredBy": "u-1", "format": "csv", "outcome": "exported"},
}


def mapping(**others: Any) -> Mapping:
    return Mapping.model_validate({**MAPPING, **others})


def read(cells: dict[str, Cell], **others: Any) -> RowFacts:
    least: dict[str, Cell] = {"run": "1", "claim": "c-1", "at": "2024-01-31"}
    return RowReader(mapping(**others), EXCEL_FIRST_DAY).read(Row(2, {**least, **cells}, []))


@pytest.mark.parametrize(
    ("text", "signs", "amount"),
    [
        ("12.5", {}, "12.50"),
        ("1,234.50", {"thousands_sign": ","}, "1234.50"),
        ("1.234,5", {"decimal_sign": ",", "thousands_sign": "."}, "1234.50"),
        ("1\u00a0234\u202f567,89", {"decimal_sign": ",", "thousands_sign": " "}, "1234567.89"),
        ("1'234.00", {"thousands_sign": "'"}, "1234.00"),
        ("12,50-", {"decimal_sign": ","}, "-12.50"),
        (Decimal("1234.5"), {"decimal_sign": ","}, "1234.50"),
        ("(1,234.50)", {"thousands_sign": ","}, "-1234.50"),
        ("\u221212.5", {}, "-12.50"),
        ("\u20ac 48,50", {"decimal_sign": ","}, "48.50"),
        ("-$1,234.50", {"thousands_sign": ","}, "-1234.50"),
        ("1 234,50 kr.", {"decimal_sign": ",", "thousands_sign": " "}, "1234.50"),
        ("12.50\u00a0EUR", {}, "12.50"),
        ("1\u2009234,50 \u20ac", {"decimal_sign": ",", "thousands_sign": " "}, "1234.50"),
        ("- 48,50", {"decimal_sign": ","}, "-48.50"),
        ("48,50 -", {"decimal_sign": ","}, "-48.50"),
        ("\u201348,50 Euro", {"decimal_sign": ","}, "-48.50"),
        ("150,-", {"decimal_sign": ","}, "150.00"),
        ("kr 1 150,\u2014", {"decimal_sign": ",", "thousands_sign": " "}, "1150.00"),
        ("( 12.50 )", {}, "-12.50"),
        ("0.125", {}, "0.125"),
        ("1.234", {"thousands_sign": ","}, "1.234"),
    ],
)
def test_an_amount_is_read_by_its_signs(text: Cell, signs: dict[str, str], amount: str) -> None:
    facts = read({"amount": text}, **signs)
    assert (facts.problems, facts.claims[0]["amount"]) == ([], amount)


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ("1.234", {"decimal_sign": ","}),  # it may be 1234, or 1.234 of a file with another sign
        ("1.23", {"decimal_sign": ",", "thousands_sign": "."}),
        ("1,234", {}),
        ("12,34,567.00", {"thousands_sign": ","}),
        ("-12-", {}),
        ("(-12)", {}),
        ("(12", {}),
        ("12 pieces", {}),
        ("EUR 12 EUR", {}),
        ("1.23456", {}),
        ("1.234", {}),  # it may be 1234
        ("48 50", {"decimal_sign": ","}),
        ("1 234,50", {"decimal_sign": ","}),
        ("12,-", {}),
        ("--12", {}),
    ],
)
def test_an_amount_that_may_mean_two_things_is_refused(text: str, signs: dict[str, str]) -> None:
    [problem] = read({"amount": text}, **signs).problems
    assert problem.startswith("amount: ")


def test_a_currency_is_read_in_small_letters_and_beside_the_amount_and_must_be_one() -> None:
    def currency(**cells: Cell) -> str | None:
        facts = read(dict(cells))
        return None if facts.problems else facts.claims[0].get("currency")

    assert [currency(currency="eur"), currency(amount="USD 1"), currency(amount="1 \u20ac")] == ["EUR", "USD", "EUR"]
    assert [currency(amount="$1"), currency(amount="$1", currency="AUD")] == [None, "AUD"]  # dollars of many countries
    assert read({"amount": "1 USD", "currency": "EUR"}).problems == ["amount: is in USD, and the row says EUR"]


@pytest.mark.parametrize(
    ("cell", "others", "time"),
    [
        ("31.01.2024", {"date_formats": ["%d.%m.%Y"], "time_zone": "Europe/Berlin"}, "2024-01-30T23:00:00Z"),
        ("07/01/2024", {"date_formats": ["%m/%d/%Y"], "time_zone": "America/New_York"}, "2024-07-01T04:00:00Z"),
        ("2024-07-01T12:00:00+02:00", {"time_zone": "Europe/Oslo"}, "2024-07-01T10:00:00Z"),
        (datetime(2024, 7, 1, 12), {"time_zone": "Europe/Oslo"}, "2024-07-01T10:00:00Z"),  # noqa: DTZ001
        (Decimal("45322.5"), {}, "2024-01-31T12:00:00Z"),
        ("45322", {"date_formats": ["excel"]}, "2024-01-31T00:00:00Z"),
        ("31.01.24", {"date_formats": ["%d.%m.%Y", "%d.%m.%y"]}, "2024-01-31T00:00:00Z"),
        ("2902", {"date_formats": ["%d%m"], "year": 2024}, "2024-02-29T00:00:00Z"),
        ("101", {"date_formats": ["%d%m"], "year": 2024}, "2024-01-01T00:00:00Z"),  # a spreadsheet took the zero
        (Decimal("3101"), {"date_formats": ["%d%m"], "year": 2024}, "2024-01-31T00:00:00Z"),
        (Decimal("20240131"), {"date_formats": ["%Y%m%d"]}, "2024-01-31T00:00:00Z"),
        (Decimal("45322"), {"date_formats": ["%d.%m.%Y"]}, "2024-01-31T00:00:00Z"),
    ],
)
def test_a_time_is_read_by_its_form_and_zone(cell: Cell, others: dict[str, Any], time: str) -> None:
    facts = read({"at": cell}, **others)
    assert (facts.problems, facts.run["createdAt"]) == ([], time)


@pytest.mark.parametrize(
    "cell",
    [
        "31.01.2024",
        "2024-02-30",
        "45322",
        Decimal("-1"),
        "0001-01-01",
        ["2024-01-01"],
        Decimal(2024),  # as a count of days a day of 1905
        Decimal("20240131"),
        "2999-01-01",
        UnknownResult(),
    ],
)
def test_what_is_no_time_is_refused(cell: Cell) -> None:
    [problem] = read({"at": cell}).problems
    assert problem.startswith("at: ")


def test_zeros_that_a_spreadsheet_took_away_come_back() -> None:
    claims = [read({"claim": cell}, claim_digits=6).claims[0]["claimId"] for cell in ("417", Decimal(417), "A-7")]
    assert claims == ["000417", "000417", "A-7"]


@pytest.mark.parametrize(
    "claim",
    [
        "1,23457E+11",
        "1.2E5",
        "",
        "a\x00b",
        "x" * 201,
        "=A1&B1",
        "#REF!",
        "#N/A",
        "#BEZUG!",
        "#####",
        UnknownResult(),
        datetime(2024, 4, 3),  # noqa: DTZ001 -- what a spreadsheet makes of 3-4
    ],
)
def test_what_is_no_claim_id_is_refused(claim: Cell) -> None:
    [problem] = read({"claim": claim}).problems
    assert problem.startswith("claim: ")


def test_a_text_that_a_program_protects_from_a_spreadsheet_is_the_text_inside() -> None:
    facts = read({"run": '="01"', "claim": '="000417"'})
    assert (facts.problems, facts.key, facts.claims[0]["claimId"]) == ([], ["01"], "000417")


def test_words_mean_what_the_mapping_says_and_others_are_refused() -> None:
    words = {"outcome": {"Bezahlt": "exported", "offen": "ignored"}}
    assert read({"outcome": " BEZAHLT "}, words=words).claims[0]["outcome"] == "exported"
    assert read({"outcome": "offen"}, words=words).is_ignored
    assert read({"outcome": "storniert"}, words=words).problems


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time_zone": "Europe/Atlantis"}, "time_zone: is no time zone"),
        ({"encoding": "utf-99"}, "encoding: is no encoding"),
        ({"colums": {}}, "colums: "),
        ({"words": {"status": {"a": "done"}}}, "words.status: 'done' must be one of"),
        ({"constants": {"orgId": "o", "format": "csv"}}, "triggeredBy must be given"),
        ({"columns": {"claimId": "a", "claimIds": "b", "createdAt": "c"}}, "[columns] must give claimId"),
        ({"header_rows": 6}, "header_rows: "),
        ({"run_key": "run"}, "run_key: "),
        ({"decimal_sign": ",", "thousands_sign": ","}, "decimal_sign and thousands_sign must differ"),
        ({"date_formats": ["%d%m"]}, "'%d%m' has no year"),
        ({"date_formats": ["dd.mm.yyyy"]}, "'dd.mm.yyyy' is no form such as %d.%m.%Y"),
    ],
)
def test_a_mapping_that_is_wrong_names_the_place(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    def toml(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + "}"
        return json.dumps(value)

    path = tmp_path / "mapping.toml"
    path.write_text("\n".join(f"{name} = {toml(value)}" for name, value in {**MAPPING, **change}.items()))
    with pytest.raises(FileRefused, match=r"mapping\.toml: ") as refused:
        read_mapping(path)
    assert words in str(refused.value)


TABLE = "run;claim;at;amount;currency;outcome\r\n1;Café;2024-01-31;;;\r\n"


@pytest.mark.parametrize(
    ("content", "description"),
    [
        (TABLE.encode(), "CSV in UTF-8, delimiter ;"),
        (TABLE.encode("utf-8-sig"), "CSV in UTF-8, delimiter ;"),
        (TABLE.encode("utf-16"), "CSV in UTF-16, delimiter ;"),
        (TABLE.encode("utf-16-be"), "CSV in UTF-16-BE, delimiter ;"),
        (TABLE.encode("windows-1252"), "CSV in WINDOWS-1252, delimiter ;"),
        (TABLE.replace("\r\n", "\r").encode(), "CSV in UTF-8, delimiter ;"),
        (TABLE.replace("\n", "\r\n").encode(), "CSV in UTF-8, delimiter ;"),  # a conversion too many
        (TABLE.replace(";", "\t").encode(), "CSV in UTF-8, delimiter tab"),
        (TABLE.replace(";", "|").encode(), "CSV in UTF-8, delimiter |"),
        (b"A list\r\n\r\n" + TABLE.replace(";", ",").encode(), "CSV in UTF-8, delimiter ,"),
        (
            '{"run": 1, "claim": "Caf\u00e9", "at": "2024-01-31", "currency": "EUR", "outcome": "exported"}\n'.encode(),
            "JSON Lines in UTF-8, no line has amount",
        ),
    ],
)
def test_a_file_is_recognised(tmp_path: Path, content: bytes, description: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    file = open_record_file(path, mapping())
    [row] = file.rows()
    where = "3" if content.startswith(b"A list") else "1"
    described = description if description.startswith("JSON") else f"{description}, headings in row {where}"
    assert (file.description, row.cells["claim"], RowReader(mapping(), EXCEL_FIRST_DAY).read(row).key) == (
        described,
        "Café",
        ["1"],
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8bxx", "gzip"),
        (b"\xd0\xcf\x11\xe0", ".xls"),
        (b"PK\x03\x04xx", "no workbook"),
        (b"a;b\r\n\x81\x8d;1\r\n", "neither UTF-8 nor Windows-1252"),
        (b"run;claim\r\n1;2\r\n", "has no column amount, at, currency, outcome; its columns are: run, claim"),
        (b"", "is empty"),
        (b"\r\n;;\r\n", "its first 2 rows are blank"),
        (b"run;claim;at;amount;amount;currency;outcome\r\n", "has several columns amount; name the one that is meant"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b'[{"run": 1},\n{"run": 2}]\n', "is a JSON array"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(content)
    with pytest.raises(FileRefused, match=r"file\.csv: ") as refused:
        list(open_record_file(path, mapping()).rows())
    assert words in str(refused.value)


def test_headings_above_each_other_are_joined_and_named_once() -> None:
    assert joined_headings([["Export", "", "Sum"], ["Id", "Date", ""]]) == ["Export / Id", "Export / Date", "Sum"]
    assert joined_headings([["a", "a", "", "a"]]) == ["a (1)", "a (2)", "column 3", "a (3)"]
    assert joined_headings([["a (2)", "a", "a", "column 4", ""]]) == ["a (2)", "a (1)", "a (3)", "column 4", "column 5"]
    assert joined_headings([["column 2", ""]]) == ["column 2", "column 2 (1)"]


def test_white_space_in_headings_and_before_quotation_marks_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text('Run, "Claim\u00a0ID",  "Sent\n on"\n1, "a ""b""", 2024-01-31\n', encoding="utf-8")
    columns = {"claimId": "Claim  ID", "createdAt": "Sent on\n"}
    spaced = mapping(run_key=["Run "], columns=columns)
    [row] = open_record_file(path, spaced).rows()
    facts = RowReader(spaced, EXCEL_FIRST_DAY).read(row)
    assert (facts.problems, facts.key, facts.claims[0]["claimId"]) == ([], ["1"], 'a "b"')


def test_refused_rows_of_a_file_with_several_rows_of_headings_are_read_by_the_same_mapping(tmp_path: Path) -> None:
    path, rejects = tmp_path / "file.csv", tmp_path / "rejects.csv"
    path.write_text("A list\nExport,,Claim\nRun,Date,Id\n1,never,a\n")
    two = mapping(
        header_rows=2, run_key=["Export / Run"], columns={"claimId": "Claim / Id", "createdAt": "Export / Date"}
    )
    file = open_record_file(path, two)
    [row] = file.rows()
    file.write_rejects(rejects, [(row.raw, "no time")])
    [again] = open_record_file(rejects, two).rows()
    assert again.cells == row.cells


async def test_a_copy_of_a_row_may_have_other_white_space_but_no_other_cell(tmp_path: Path) -> None:
    lines = ["1;a;2024-01-31;5", "1; a ;2024-01-31;5 ", "1;b;2024-01-31;5", "1;b;2024-01-31;5;line 2"]
    path = tmp_path / "file.csv"
    path.write_text("\n".join(["run;claim;at;amount;note", *lines]))
    columns = {"claimId": "claim", "createdAt": "at", "amount": "amount"}
    table = mapping(columns=columns)
    with ImportPlan("s", table, open_record_file(path, table), tmp_path, with_alerts=False) as plan:
        plan.read_rows(lambda done, total: None)
        await plan.build(None, lambda done, total: None)
    assert (plan.plan.copied_rows, [each.claim_id for each in plan.plan.listed]) == (1, ["b"])


def test_records_are_sorted_past_what_memory_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "PART_CHARS_MAX", 200)
    monkeypatch.setattr(sorting, "PARTS_MAX", 3)
    records = ExternalSort(tmp_path)
    numbers = [(number * 7919) % 1000 for number in range(1000)]
    for place, number in enumerate(numbers):
        records.add([number % 100, "é\ud800"], place)
    expected = sorted(range(1000), key=lambda place: numbers[place] % 100)
    for _ in range(2):
        assert [record for _, record in records] == expected
    records.close()


async def test_a_run_with_too_many_rows_is_refused_and_one_with_as_many_as_there_may_be_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RUN_ROWS_MAX == EVENT_CLAIMS_MAX
    monkeypatch.setattr("cli.imports.plan.RUN_ROWS_MAX", 100)
    lines = [f"{run};c-{claim};2024-01-31;;;\n" for run in (0, 1) for claim in range(100 + run)]
    path = tmp_path / "file.csv"
    path.write_text("run;claim;at;amount;currency;outcome\n" + "".join(lines))
    with ImportPlan("s", mapping(), open_record_file(path, mapping()), tmp_path, with_alerts=False) as plan:
        plan.read_rows(lambda done, total: None)
        await plan.build(None, lambda done, total: None)
    assert (plan.plan.runs, plan.plan.claims, plan.plan.rejected_rows) == (1, 100, 101)


async def planned(path: Path, table: Mapping) -> Plan:
    """What an import of a file would do, without a database."""
    with ImportPlan("s", table, open_record_file(path, table), path.parent, with_alerts=False) as importing:
        importing.read_rows(lambda done, total: None)
        await importing.build(None, lambda done, total: None)
        return importing.plan


@pytest.mark.parametrize("refused", ["2;;b;2024-01-31", "2;a\x01;b;2024-01-31", "2;acme;b;2024-01-31;more"])
async def test_a_run_is_not_imported_without_a_row_of_which_only_the_key_can_be_read(
    tmp_path: Path, refused: str
) -> None:
    """Once it is known, the row that was mended would be refused for ever, and its claim paid once more."""
    path = tmp_path / "file.csv"
    lines = ["1;acme;a;2024-01-31", "2;acme;a;2024-01-31", refused, "2;globex;a;2024-01-31", "3;acme;c;2024-01-31"]
    path.write_text("\n".join(["run;org;claim;at", *lines]))
    columns = {"orgId": "org", "claimId": "claim", "createdAt": "at"}
    table = mapping(columns=columns, constants={"triggeredBy": "u-1", "format": "csv"})
    plan = await planned(path, table)
    others = 1 if "acme" in refused else 2  # of that key, each may be the run of the row
    assert (plan.runs, plan.rejected_rows) == (2 + (others == 1), 1 + others)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("123456789012345678901234567891", "123456789012345678901234567891"),
        ("9007199254740993", "9007199254740993"),
        ("12345678901234567890.10", "12345678901234567890.1"),
        ("7.0", "7"),
        ("1e3", "1000"),
        ("1e1001", "1E+1001"),
        ("1e999999999999", "1E+999999999999"),
    ],
)
async def test_a_number_keeps_its_digits_also_in_a_file_of_refused_rows(tmp_path: Path, number: str, text: str) -> None:
    """Two claims of which a digit is lost would be one."""
    path, rejects = tmp_path / "file.jsonl", tmp_path / "rejects.jsonl"
    path.write_text(f'{{"run": {number}, "claim": {number}, "at": "2024-01-31"}}\n')
    columns = mapping(columns={"claimId": "claim", "createdAt": "at"})
    for written in (path, rejects):
        file = open_record_file(written, columns)
        [row] = file.rows()
        facts = RowReader(columns, EXCEL_FIRST_DAY).read(row)
        assert (facts.key, [claim["claimId"] for claim in facts.claims]) == ([text], [text])
        file.write_rejects(rejects, [(row.raw, "no time")])


async def test_a_whole_number_of_a_workbook_keeps_its_digits(tmp_path: Path) -> None:
    """A spreadsheet keeps 15 of them, a program that writes a workbook 16."""
    path, rejects = tmp_path / "file.xlsx", tmp_path / "rejects.xlsx"
    workbook = Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet.append(["run", "claim", "at"])
    numbers = (1234567890123456, 1234567890123457)
    for number in numbers:
        sheet.append([1, number, "2024-01-31"])
    workbook.save(path)
    columns = mapping(columns={"claimId": "claim", "createdAt": "at"})
    for written in (path, rejects):
        file = open_record_file(written, columns)
        rows = list(file.rows())
        claims = [RowReader(columns, EXCEL_FIRST_DAY).read(row).claims[0]["claimId"] for row in rows]
        assert claims == [str(number) for number in numbers]
        file.write_rejects(rejects, [(row.raw, "no time") for row in rows])


QUOTED = {
    "up to a later quotation mark in its cell": [
        '1;a;2024-01-31;"no receipt',
        "1;b;2024-01-31;",
        '2;c;2024-01-31;"late"',
    ],
    "up to one that ends a cell": ['1;a;2024-01-31;"no receipt', "1;b;2024-01-31;", '2;c;2024-01-31;12"'],
    "up to the end of the file": ['1;a;2024-01-31;"no receipt', "1;b;2024-01-31;"],
}


@pytest.mark.parametrize("lines", QUOTED.values(), ids=QUOTED)
async def test_a_file_with_rows_inside_a_cell_is_refused(tmp_path: Path, lines: list[str]) -> None:
    """A quotation mark that is not closed takes in the rows below: their claims would be missing, and paid again."""
    path = tmp_path / "file.csv"
    path.write_text("\n".join(["run;claim;at;note", *lines]) + "\n")
    table = mapping(columns={"claimId": "claim", "createdAt": "at"})
    with pytest.raises(FileRefused, match="row 2: a cell has whole rows in it; is a quotation mark not closed"):
        await planned(path, table)


async def test_a_cell_of_several_lines_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text('run;claim;at;note\n1;a;2024-01-31;"a taxi; on 2024-01-30\n; ; ; \nand back"\n1;b;2024-01-31;\n')
    plan = await planned(path, mapping(columns={"claimId": "claim", "createdAt": "at"}))
    assert (plan.rows, plan.claims) == (2, 2)


def test_rows_of_one_run_must_agree() -> None:
    rows = [read({"claim": "a"}), read({"claim": "b", "at": "2024-01-30"})]
    run = build_run("s", "org-1", ["1"], rows)
    assert f"{run.created.occurred_at:%F}" == "2024-01-30"
    rows[1].run["triggeredBy"] = "u-2"
    with pytest.raises(RefusedRun, match="differ in triggeredBy"):
        build_run("s", "org-1", ["1"], rows)


def test_the_ids_follow_from_the_source_and_the_key() -> None:
    def ids(source: str, key: str) -> tuple[object, ...]:
        run = build_run(source, "org-1", [key], [read({})])
        return run.run_id, run.created.event_id, run.finished.event_id

    assert ids("s", "1") == ids("s", "1")
    assert len({*ids("s", "1"), *ids("s", "2"), *ids("t", "1")}) == 9
