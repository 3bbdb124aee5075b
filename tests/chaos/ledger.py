"""What was done and heard, in order, on disk: all that the checker gets to know."""

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

    Many writers share one fsync: whoever needs his lines on disk waits for the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=BUFFER_BYTES)
        self._noted = 0
        self._on_disk = 0
        self._syncing: asyncio.Task[None] | None = None
        self.note("start", wall=time.time())

    def note(self, kind: str, /, **facts: object) -> float:
        """Append a line; returns its time."""
        t = round(time.monotonic(), 6)
        self._file.write(json.dumps({"k": kind, "t": t, **facts}, separators=(",", ":")).encode() + b"\n")
        self._noted += 1
        return t

    async def sync(self) -> None:
        """Wait until everything noted so far is on disk."""
        wanted = self._noted
        while self._on_disk < wanted:
            if self._syncing is None or self._syncing.done():
                self._syncing = asyncio.create_task(self._sync_once())
            await asyncio.shield(self._syncing)

    async def _sync_once(self) -> None:
        noted = self._noted
        self._file.flush()
        await asyncio.to_thread(os.fsync, self._file.fileno())
        self._on_disk = noted

    def close(self) -> None:
        """Bring what is left to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def read(path: Path) -> Iterator[tuple[int, Record]]:
    """Every line with its offset in the file."""
    offset = 0
    with path.open("rb", buffering=BUFFER_BYTES) as file:
        for line in file:
            yield offset, json.loads(line)
            offset += len(line)
