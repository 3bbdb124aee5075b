"""Workbooks as strangers make them: each is read, or refused with its row, in bounded memory."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import xlsxwriter
from openpyxl import Workbook

from cli.console import FileRefused
from cli.imports import sheets
from cli.imports.mapping import Mapping
from cli.imports.recognition import open_record_file
from cli.imports.records import Row, UnknownResult
from cli.imports.values import RowFacts, RowReader

MAPPING = Mapping.model_validate(
    {
        "run_key": ["run"],
        "columns": {"claimId": "claim", "createdAt": "at", "amount": "amount"},
        "constants": {"orgId": "org-1", "triggeredBy": "u-1", "format": "csv"},
    }
)
HEADINGS = ["run", "claim", "at", "amount"]
WITHOUT_RESULT = "amount: is a formula without its result; open the file in a spreadsheet program, and save it there"
SHEET = "xl/worksheets/sheet1.xml"


def saved(folder: Path, *rows: list[Any], prepare: Callable[[Workbook], None] = lambda workbook: None) -> Path:
    workbook = Workbook()
    sheet = workbook.active
    assert sheet is not None
    for row in (HEADINGS, *rows):
        sheet.append(row)
    prepare(workbook)
    path = folder / "table.xlsx"
    workbook.save(path)
    return path


def changed(path: Path, **parts: Callable[[str], str]) -> Path:
    """The workbook with other contents in its parts: `sheet` and `workbook`."""
    names = {"sheet": SHEET, "workbook": "xl/workbook.xml", "styles": "xl/styles.xml"}
    with ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for part, change in parts.items():
        contents[names[part]] = change(contents[names[part]].decode()).encode()
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def with_rows(xml: str) -> Callable[[str], str]:
    """Rows after those of the sheet."""
    return lambda sheet: sheet.replace("</sheetData>", f"{xml}</sheetData>")


def read(path: Path) -> list[Row]:
    return list(open_record_file(path, MAPPING).rows())


def facts(path: Path) -> list[RowFacts]:
    file = open_record_file(path, MAPPING)
    reader = RowReader(MAPPING, file.first_day)
    return [reader.read(row) for row in file.rows()]


GOOD = [1, "a", datetime(2024, 1, 31), 12.5]  # noqa: DTZ001


def saved_by_a_spreadsheet(workbook: str) -> str:
    return workbook.replace('fullCalcOnLoad="1"', "")


def test_a_formula_has_the_result_that_a_spreadsheet_program_saved(tmp_path: Path) -> None:
    row = '<row r="3"><c r="A3"><v>1</v></c><c r="B3" t="str"><f>"b"&amp;1</f><v>b1</v></c><c r="C3"><v>45322</v></c>'
    row += '<c r="D3"><f>5+5</f><v>10</v></c></row>'
    path = changed(saved(tmp_path, GOOD), sheet=with_rows(row), workbook=saved_by_a_spreadsheet)
    [_, second] = facts(path)
    assert (second.problems, second.claims) == ([], [{"claimId": "b1", "amount": "10.00"}])


def test_a_formula_that_no_spreadsheet_program_has_calculated_is_refused(tmp_path: Path) -> None:
    """Programs that write workbooks leave its result out, or write a zero: an amount would be lost."""
    [without] = facts(saved(tmp_path, [1, "a", "2024-01-31", "=5+5"]))
    row = '<row r="2"><c r="A2"><v>1</v></c><c r="B2"><v>7</v></c><c r="C2"><v>45322</v></c>'
    row += '<c r="D2"><f>5+5</f><v>0</v></c></row>'
    [with_zero] = facts(changed(saved(tmp_path), sheet=with_rows(row)))
    for each in (without, with_zero):
        assert each.problems == [WITHOUT_RESULT]


def test_a_refused_formula_is_not_blank_in_the_file_of_refused_rows(tmp_path: Path) -> None:
    file = open_record_file(saved(tmp_path, [1, "a", "2024-01-31", "=5+5"]), MAPPING)
    [row] = file.rows()
    assert isinstance(row.cells["amount"], UnknownResult)
    rejects = tmp_path / "rejects.xlsx"
    file.write_rejects(rejects, [(row.raw, "no result")])
    [again] = facts(rejects)
    assert again.problems == ["amount: is #N/A, which a spreadsheet shows in place of a value"]


def test_an_error_of_a_spreadsheet_is_no_value(tmp_path: Path) -> None:
    row = '<row r="3"><c r="A3"><v>1</v></c><c r="B3" t="e"><f>A1</f><v>#REF!</v></c><c r="C3"><v>45322</v></c></row>'
    path = changed(saved(tmp_path, GOOD), sheet=with_rows(row), workbook=saved_by_a_spreadsheet)
    assert facts(path)[1].problems == ["claim: is #REF!, which a spreadsheet shows in place of a value"]


def test_dates_are_read_as_dates_and_as_counts_of_days(tmp_path: Path) -> None:
    rows = [[1, "a", 45322, 1], [1, "b", 2024, 1], [1, "c", 20240131, 1], [1, "d", datetime(2024, 1, 31), 1]]  # noqa: DTZ001
    read_rows = facts(saved(tmp_path, *rows))
    assert [each.run.get("createdAt") for each in read_rows] == [
        "2024-01-31T00:00:00Z", None, None, "2024-01-31T00:00:00Z"
    ]  # fmt: skip
    assert read_rows[1].problems == ["at: is a time of the year 1905; is it the right column, and the right form?"]
    assert read_rows[2].problems == ["at: is no time in one of the forms a count of days"]


def test_days_are_counted_from_1904_where_the_workbook_says_so(tmp_path: Path) -> None:
    path = changed(
        saved(tmp_path, [1, "a", 43860, 1]),
        workbook=lambda xml: xml.replace("<workbookPr ", '<workbookPr date1904="1" '),
    )
    [row] = facts(path)
    assert row.run["createdAt"] == "2024-01-31T00:00:00Z"


def test_under_merged_cells_a_row_lacks_what_names_its_run(tmp_path: Path) -> None:
    def merge(workbook: Workbook) -> None:
        workbook["Sheet"].merge_cells("A2:A3")

    rows = [GOOD, [1, "b", datetime(2024, 1, 31), 1]]  # noqa: DTZ001
    [_, second] = facts(saved(tmp_path, *rows, prepare=merge))
    assert second.problems == ["run: is blank, and names the run"]


def test_hidden_rows_are_read_and_counted(tmp_path: Path) -> None:
    def hide(workbook: Workbook) -> None:
        workbook["Sheet"].row_dimensions[3].hidden = True

    file = open_record_file(saved(tmp_path, GOOD, GOOD, prepare=hide), MAPPING)
    assert [row.number for row in file.rows()] == [2, 3]
    assert file.description == "XLSX, sheet Sheet, headings in row 1, hidden rows read as well: 1"


def test_a_hidden_sheet_is_read_only_where_it_is_named(tmp_path: Path) -> None:
    def hide(workbook: Workbook) -> None:
        workbook["Sheet"].sheet_state = "veryHidden"
        workbook.create_chartsheet("Chart", 0)
        workbook.create_sheet("Notes")

    path = saved(tmp_path, GOOD, prepare=hide)
    with pytest.raises(FileRefused, match="has no rows"):
        read(path)
    named = MAPPING.model_copy(update={"sheet": "Sheet"})
    assert len(list(open_record_file(path, named).rows())) == 1
    with pytest.raises(FileRefused, match="has no sheet Chart; its sheets are: Sheet, Notes"):
        open_record_file(path, MAPPING.model_copy(update={"sheet": "Chart"}))


def test_rows_that_a_sheet_leaves_out_are_blank_and_rows_keep_their_numbers(tmp_path: Path) -> None:
    row = '<row r="1048576"><c r="B1048576" t="inlineStr"><is><t>z</t></is></c></row>'
    assert [each.number for each in read(changed(saved(tmp_path, GOOD), sheet=with_rows(row)))] == [2, 1_048_576]


DAMAGED = {
    "a row twice": (with_rows('<row r="2"><c r="A2"><v>1</v></c></row>'), "row 2: comes after row 2"),
    "a row back": (with_rows('<row r="1"><c r="A1"><v>1</v></c></row>'), "row 1: comes after row 2"),
    "a row far down": (with_rows('<row r="99999999"></row>'), "row 99999999: is past the last row"),
    "a cell twice": (with_rows('<row r="3"><c r="A3"/><c r="A3"/></row>'), "row 3: its cells are not in their order"),
    "a cell of another row": (with_rows('<row r="3"><c r="A4"/></row>'), "row 3: its cells are not in their order"),
    "a cell far right": (with_rows('<row r="3"><c r="ZZZ3"/></row>'), "row 3: its cells are not in their order"),
    "an unknown text": (with_rows('<row r="3"><c r="A3" t="s"><v>999</v></c></row>'), "row 3: cannot be read"),
    "an unknown style": (with_rows('<row r="3"><c r="A3" s="99"><v>1</v></c></row>'), "row 3: cannot be read"),
    "no number": (with_rows('<row r="3"><c r="A3"><v>x</v></c></row>'), "row 3: cannot be read"),
    "no XML": (lambda sheet: sheet[: sheet.index("</sheetData>")], "row 3: cannot be read"),
    "a large row": (
        with_rows(f'<row r="3"><c r="A3" t="inlineStr"><is><t>{"x" * 2_000_000}</t></is></c></row>'),
        "row 3: has more than 1,000,000 bytes when unpacked",
    ),
}


@pytest.mark.parametrize(("change", "words"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_sheet_is_refused_with_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str], words: str
) -> None:
    monkeypatch.setattr(sheets, "ROW_BYTES_MAX", 1_000_000)
    with pytest.raises(FileRefused) as refused:
        read(changed(saved(tmp_path, GOOD), sheet=change))
    assert words in str(refused.value)


def test_the_texts_of_a_workbook_may_be_in_a_table_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "table.xlsx"
    with xlsxwriter.Workbook(path) as workbook:
        sheet = workbook.add_worksheet()
        sheet.write_row(0, 0, HEADINGS)
        sheet.write_row(1, 0, ["1", "a", "2024-01-31", "5.00"])
        sheet.write_row(2, 0, ["1", "b", "2024-01-31", "=2+3"])
    first, second = facts(path)
    assert (first.problems, first.claims) == ([], [{"claimId": "a", "amount": "5.00"}])
    assert second.problems == [WITHOUT_RESULT]  # this program writes a zero


def test_a_part_that_is_huge_when_unpacked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "PART_BYTES_MAX", 1_000_000)
    path = changed(saved(tmp_path, GOOD), styles=lambda xml: xml + " " * 1_000_000)
    assert path.stat().st_size < 10_000
    with pytest.raises(FileRefused, match=r"its part xl/styles.xml has more than 1,000,000 bytes when unpacked"):
        read(path)


def test_entities_of_xml_do_not_grow(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "xxxxxxxxxx">{entities}]>'
    row = '<row r="3"><c r="A3" t="inlineStr"><is><t>&e11;</t></is></c></row>'
    path = changed(saved(tmp_path, GOOD), sheet=lambda xml: bomb + with_rows(row)(xml))
    with pytest.raises(FileRefused):
        read(path)


def test_what_is_no_workbook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.xlsx"
    with ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    with pytest.raises(FileRefused, match=r"is no workbook that can be read: it lacks parts that an .xlsx file has"):
        read(path)
    path.write_bytes(b"\xd0\xcf\x11\xe0" + bytes(100))
    with pytest.raises(FileRefused, match="has a password"):
        read(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_day_that_no_calendar_has_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD)
    changed(path, sheet=lambda xml: xml.replace("<v>45322</v>", "<v>9999999</v>"))
    [row] = facts(path)
    assert row.problems == ["at: is #VALUE!, which a spreadsheet shows in place of a value"]


def test_a_number_past_what_a_float_holds_is_no_value(tmp_path: Path) -> None:
    row = '<row r="3"><c r="A3"><v>1</v></c><c r="B3"><v>1e999</v></c><c r="C3"><v>45322</v></c></row>'
    [_, second] = facts(changed(saved(tmp_path, GOOD), sheet=with_rows(row)))
    assert second.problems == ["claim: is #N/A, which a spreadsheet shows in place of a value"]
    assert Decimal("Infinity") not in second.key
