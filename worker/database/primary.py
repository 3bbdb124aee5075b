"""Which of the hosts in a URL is PostgreSQL's primary."""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import structlog
from asyncpg import Record
from asyncpg.connect_utils import SessionAttribute

NOT_THE_PRIMARY: Final = (
    OSError,  # TimeoutError is one
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.TargetServerAttributeNotMatched,
)
"""What is raised where a host is away, starts, ends, hangs up, or is a standby."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Primary:
    """Connects to the primary. It begins with the host that was the primary last.

    asyncpg takes several hosts too, but has one time-out for all of them: a host that says nothing, like a machine
    without power, uses it up, and the others are never asked.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)

    async def connect(self, timeout_s: float, **options: Any) -> "asyncpg.Connection[Record]":
        """Connect. The hosts share `timeout_s`; `options` are those of `asyncpg.connect`.

        Raises what the last host met, or at once what only a person can mend.
        """
        urls = self._urls
        for url in urls:
            try:
                connection: asyncpg.Connection[Record] = await asyncpg.connect(
                    url,
                    timeout=timeout_s / len(urls),
                    target_session_attrs=SessionAttribute.primary,  # a standby answers, with what was true once
                    **options,
                )
            except NOT_THE_PRIMARY:
                if url == urls[-1]:
                    raise
                continue
            if url != urls[0] and self._urls == urls:  # or another connection has found it meanwhile
                self._urls = (url, *(each for each in urls if each != url))
                log.info("primary_changed", host=urlsplit(url).netloc.rpartition("@")[2])
            return connection
        raise AssertionError("there is at least one URL")
