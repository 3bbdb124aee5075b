"""Reads the SQL of the benchmarks and the peers from `sql/`."""

from functools import cache
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent / "sql"


@cache
def statement(name: str) -> str:
    """The text of `sql/<name>.sql`. Raises FileNotFoundError if there is none."""
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
