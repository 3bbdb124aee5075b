"""The ledger: a file with everything that the campaign did and received, in order. The checker reads only this."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

Record = dict[str, Any]

BUFFER_BYTES: Final = 1024 * 1024


class Ledger:
    """An append-only file of JSON lines, each with a kind `k` and a monotonic time `t` in seconds.

    Many writers share one fsync: a writer that needs its lines on disk waits for the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=BUFFER_BYTES)
        self._line_count = 0
        self._lines_on_disk = 0
        self._sync_task: asyncio.Task[None] | None = None
        self.note("start", wall=time.time())

    def note(self, kind: str, /, **fields: object) -> float:
        """Append a line. Returns its time."""
        t = round(time.monotonic(), 6)
        self._file.write(json.dumps({"k": kind, "t": t, **fields}, separators=(",", ":")).encode() + b"\n")
        self._line_count += 1
        return t

    async def sync(self) -> None:
        """Wait until all lines so far are on disk."""
        line_count = self._line_count
        while self._lines_on_disk < line_count:
            if self._sync_task is None or self._sync_task.done():
                self._sync_task = asyncio.create_task(self._sync_once())
            await asyncio.shield(self._sync_task)

    async def _sync_once(self) -> None:
        line_count = self._line_count
        self._file.flush()
        await asyncio.to_thread(os.fsync, self._file.fileno())
        self._lines_on_disk = line_count

    def close(self) -> None:
        """Write the remaining lines to disk, and close the file."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def read(path: Path) -> Iterator[tuple[int, Record]]:
    """All lines, each with its offset in the file."""
    offset = 0
    with path.open("rb", buffering=BUFFER_BYTES) as file:
        for line in file:
            yield offset, json.loads(line)
            offset += len(line)
