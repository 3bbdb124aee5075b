"""Recognise what a file of old records is: its format, and its encoding."""

import codecs
import re
from pathlib import Path

from cli.console import FileRefused
from cli.imports.mapping import Mapping
from cli.imports.record_files import SAMPLE_BYTES, CsvFile, JsonLinesFile
from cli.imports.records import CHUNK_BYTES, TableFile


def open_record_file(path: Path, mapping: Mapping) -> JsonLinesFile | TableFile:
    """Recognise a file by its name and its first bytes. Raises FileRefused."""
    try:
        with path.open("rb") as file:
            start = file.read(SAMPLE_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise FileRefused(f"{path}: {error.strerror}") from error
    if not size:
        raise FileRefused(f"{path}: is empty")
    if start.startswith(b"\x1f\x8b"):
        raise FileRefused(f"{path}: is compressed with gzip; unpack it first")
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        raise FileRefused(
            f"{path}: is a workbook of the old form .xls, or has a password; save it as .xlsx without one"
        )
    if start.startswith(b"PK\x03\x04"):
        from cli.imports.workbooks import WorkbookFile  # openpyxl is slow to import, and few commands need it

        return WorkbookFile(path, size, mapping)
    encoding = mapping.encoding or _encoding_of(path, start)
    text = start.decode(encoding, errors="ignore").lstrip("\ufeff \t\r\n")
    if text.startswith("%PDF-"):
        raise FileRefused(f"{path}: is a PDF; export the list as CSV or XLSX")
    if re.match(r"\[\s*[\[{]", text):
        raise FileRefused(f"{path}: is a JSON array; write its objects one per line, without commas between them")
    if text.startswith("{"):
        return JsonLinesFile(path, encoding, size, mapping.headings)
    return CsvFile(path, encoding, size, mapping)


def _encoding_of(path: Path, start: bytes) -> str:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        even, odd = start[::2].count(0), start[1::2].count(0)
        return "utf-16-be" if even > odd else "utf-16-le"
    for encoding in ("utf-8", "windows-1252"):
        if _is_encoded(path, encoding):
            return encoding
    raise FileRefused(f"{path}: is neither UTF-8 nor Windows-1252; name its `encoding` in the mapping")


def _is_encoded(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True
