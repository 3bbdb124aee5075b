"""The file of the rows that were refused. It is always a new one: somebody may be mending the rows of the last time."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cli.console import FileRefused
from cli.imports.records import Raw, RecordFile

NAMES_MAX: Final = 1_000
"""Names beside the input that are tried, until one is free."""


def default_names(file: Path) -> list[Path]:
    """The names that a file of refused rows may have: `list.rejects.csv`, `list.rejects-2.csv`, and so on.

    A file of refused rows that is imported itself has the same ones.
    """
    stem = re.sub(r"\.rejects(-\d+)?$", "", file.stem)
    numbers = ["", *(f"-{number}" for number in range(2, NAMES_MAX + 1))]
    return [file.with_name(f"{stem}.rejects{number}{file.suffix}") for number in numbers]


def write_rejects(records: RecordFile, rejects: Iterable[tuple[Raw, str]], path: Path | None) -> Path:
    """Write refused rows to a new file, beside the input if `path` is None; returns where. Raises FileRefused."""
    made = _made([path] if path is not None else default_names(records.path))
    # Written beside its place: half of the file may have half of a run, and somebody could import that.
    part = made.with_name(f".{made.name}.part")
    try:
        records.write_rejects(part, rejects)
        part.replace(made)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise FileRefused(f"{made}: cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return made


def _made(paths: list[Path]) -> Path:
    """An empty file, at the first of these paths where there is none. Raises FileRefused."""
    for path in paths:
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise FileRefused(f"{path}: cannot be written: {error.strerror}") from error
        return path
    raise FileRefused(f"{paths[-1]}: is there already; move it away, or name another file by --rejects")
