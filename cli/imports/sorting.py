"""Sort more records than fit into memory: parts are sorted there and kept in files, which are read side by side."""

import heapq
import json
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final, TypeAlias

PART_CHARS_MAX: Final = 16 * 1024 * 1024
"""What is sorted in memory at a time, as characters of JSON."""

PARTS_MAX: Final = 100
"""Files that are open at the same time. When there are so many, they become one."""

Key: TypeAlias = list[Any]
"""Texts and numbers, compared one after the other. All keys of a sort have the same form."""

Entry: TypeAlias = tuple[Key, Any]


class ExternalSort:
    """Takes records, which are what JSON can say, and gives them back in the order of their keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._part: list[tuple[Key, str]] = []
        self._part_chars = 0
        self._files: list[IO[str]] = []

    def add(self, key: Key, record: object) -> None:
        """Add one record."""
        line = json.dumps([key, record], ensure_ascii=False)
        self._part.append((key, line))
        self._part_chars += len(line)
        if self._part_chars >= PART_CHARS_MAX:
            self._close_part()

    def __iter__(self) -> Iterator[Entry]:
        """All records, as often as they are asked for; those with one key in the order in which they were added."""
        self._close_part()
        for file in self._files:
            file.seek(0)
        return heapq.merge(*map(_entries, self._files), key=itemgetter(0))

    def close(self) -> None:
        """Remove the files."""
        for file in self._files:
            file.close()

    def _close_part(self) -> None:
        if not self._part:
            return
        self._part.sort(key=itemgetter(0))
        self._keep(line for _, line in self._part)
        self._part.clear()
        self._part_chars = 0
        if len(self._files) == PARTS_MAX:
            merged = iter(self)
            old, self._files = self._files, []
            self._keep(json.dumps(entry, ensure_ascii=False) for entry in merged)
            for file in old:
                file.close()

    def _keep(self, lines: Iterable[str]) -> None:
        # The surrogates of a text that is not Unicode must survive until somebody says what is wrong with it.
        file = TemporaryFile("w+", encoding="utf-8", errors="surrogatepass", dir=self._folder)  # noqa: SIM115
        file.writelines(f"{line}\n" for line in lines)
        self._files.append(file)


def _entries(file: IO[str]) -> Iterator[Entry]:
    for line in file:
        key, record = json.loads(line)
        yield key, record
