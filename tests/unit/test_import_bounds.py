"""What a file of old records can make of the memory, and of the file of its refused rows."""

from pathlib import Path

import pytest

from cli.console import FileRefused
from cli.imports.mapping import Mapping
from cli.imports.reasons import OTHER_REASONS, REASONS_MAX, Reasons
from cli.imports.recognition import open_record_file
from cli.imports.tables import COLUMNS_MAX

HEAD = "run;claim;at\n"
MAPPING = Mapping.model_validate(
    {
        "run_key": ["run"],
        "columns": {"claimId": "claim", "createdAt": "at"},
        "constants": {"orgId": "org-1", "triggeredBy": "u-1", "format": "csv"},
    }
)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cell.csv", f"{HEAD}1;{'x' * 1_000};2024-01-31\n", "row 2: has more than 1,000 characters"),
        ("lines.csv", f'{HEAD}1;"{"x" * 50}{chr(10) * 1_000}";2024-01-31\n', "row 2: has more than 1,000 characters"),
        ("line.jsonl", '{"run": 1}\n{"run": "' + "x" * 1_000 + '"}\n', "row 2: has more than 1,000 characters"),
    ],
)
def test_a_row_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, words: str
) -> None:
    monkeypatch.setattr("cli.imports.record_files.ROW_CHARS_MAX", 1_000)
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(FileRefused) as refused:
        list(open_record_file(path, MAPPING).rows())
    assert words in str(refused.value)


def test_a_row_has_as_many_cells_as_a_spreadsheet_at_most(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    for cells, is_read in ((COLUMNS_MAX, True), (COLUMNS_MAX + 1, False)):
        path.write_text(f"{HEAD}1;a;2024-01-31{';' * (cells - 3)}\n")
        if is_read:
            assert len(list(open_record_file(path, MAPPING).rows())) == 1
            continue
        with pytest.raises(FileRefused, match="row 2: has more than 16,384 cells; is the delimiter the right one"):
            list(open_record_file(path, MAPPING).rows())


def test_reasons_have_a_bound_and_name_the_first_rows() -> None:
    reasons = Reasons()
    for row in range(2 * REASONS_MAX, 0, -1):
        reasons.add(row, ["amount: is no amount", f"word {row} is not known"])
    assert len(reasons.counts) == REASONS_MAX + 1
    assert reasons.counts[OTHER_REASONS] == REASONS_MAX + 1
    assert reasons.first_rows["amount: is no amount"] == [1, 2, 3, 4, 5]
    assert reasons.lines(1) == ["2,000 rows (1, 2, 3, 4, 5, ...): amount: is no amount"]


def test_rejects_are_written_whatever_their_texts_hold(tmp_path: Path) -> None:
    path, rejects = tmp_path / "file.jsonl", tmp_path / "rejects.jsonl"
    path.write_text('{"run": "1", "claim": "\\ud800", "at": "2024-01-31"}\n')
    file = open_record_file(path, MAPPING)
    [row] = file.rows()
    file.write_rejects(rejects, [(row.raw, "no \u20ac")])
    [again] = open_record_file(rejects, MAPPING).rows()
    assert again.cells == row.cells
