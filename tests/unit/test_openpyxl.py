"""What is used of openpyxl's private parts is as it was when it was read."""

import hashlib
import inspect
from importlib.metadata import version

from openpyxl import Workbook
from openpyxl.worksheet import _reader

READ = "76f717599f8ac188"
"""The digest of what was read last, that of openpyxl 3.1.5."""

HOW_TO_GO_ON = (
    "openpyxl {version} reads sheets in another way. Read openpyxl.worksheet._reader beside cli/imports/sheets.py: are "
    "a row and a cell parsed as before, and is nothing more kept of each row? If so, the digest here becomes {digest}."
)


def test_sheets_are_parsed_as_they_were_when_that_was_read() -> None:
    parser = _reader.WorkSheetParser
    used = (parser.__init__, parser.parse_row, parser.parse_cell, vars(_reader)["_cast_number"])
    sources = "".join(map(inspect.getsource, used))
    digest = hashlib.sha256(sources.encode()).hexdigest()[: len(READ)]
    assert digest == READ, HOW_TO_GO_ON.format(version=version("openpyxl"), digest=digest)


def test_a_workbook_has_the_private_attributes_that_are_used() -> None:
    workbook = Workbook()
    for name in ("_date_formats", "_timedelta_formats", "_cell_styles", "_number_formats"):
        assert hasattr(workbook, name), f"openpyxl {version('openpyxl')} has no Workbook.{name}: cli/imports/sheets.py"
