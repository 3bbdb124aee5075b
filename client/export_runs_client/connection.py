"""The connection of a client: made anew whenever it is lost, to one URL after the other."""

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from .errors import AccessRefused, ConnectionLost
from .links import Link, open_link

PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
"""Between two attempts to connect: steps that double, each shortened by up to a half at random."""

STEADY_S: Final = 5.0
"""A link that lasted so long ends the growth of the pauses."""

log = logging.getLogger("export_runs_client")


class Connection:
    """Has a link to RabbitMQ as often as there can be one. Made by open_connection."""

    def __init__(self, urls: Sequence[str], name: str, user_id: str | None) -> None:
        self._urls = urls
        self._user_id = user_id
        self._name = name
        self._link: Link | None = None
        self._refusals: dict[str, str] = {}
        """Why RabbitMQ refused the last attempt at a URL, where it did."""
        self._tried = asyncio.Event()
        self.problem = "there is no connection to RabbitMQ yet"
        """Why there is no link."""

    async def link(self) -> Link:
        """The link; waits until there is one. Raises AccessRefused where RabbitMQ has refused the last attempt at each
        URL: to wait longer is no use, until somebody mends the URL or RabbitMQ's users.
        """
        while (link := self._link) is None or link.lost.done():
            if self._refusals.keys() >= set(self._urls):
                raise AccessRefused("; ".join(dict.fromkeys(self._refusals.values())))
            self._tried.clear()
            await self._tried.wait()
        return link

    async def keep(self) -> None:
        """Connect, and after each loss or refusal connect again, until it is cancelled."""
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_FIRST_S
        for url in itertools.cycle(self._urls):
            try:
                async with open_link(url, self._name, self._user_id) as link:
                    self._link = link
                    self._refusals.clear()
                    self._tried.set()
                    linked_at_s = loop.time()
                    self.problem = await link.lost
                    if loop.time() - linked_at_s > STEADY_S:
                        pause_s = PAUSE_FIRST_S
            except ConnectionLost as error:
                self.problem = str(error)
                self._refusals.pop(url, None)
            except AccessRefused as error:
                self.problem = self._refusals[url] = str(error)
                self._tried.set()
            log.warning("no connection to RabbitMQ at %s: %s", urlsplit(url).hostname, self.problem)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, PAUSE_MAX_S)


@asynccontextmanager
async def open_connection(urls: Sequence[str], name: str, user_id: str | None = None) -> AsyncIterator[Connection]:
    """A connection that is kept until the end. It does not wait until there is a link."""
    for url in urls:
        if urlsplit(url).scheme not in ("amqp", "amqps"):
            raise ValueError("each URL must begin with amqp:// or amqps://")
        try:
            (urlsplit(url).hostname or "").encode("idna")
        except UnicodeError:
            raise ValueError("each URL must name a host: a part of this name is empty or too long") from None
    if not urls:
        raise ValueError("at least one URL is needed")
    connection = Connection(urls, name, user_id)
    keeping = asyncio.create_task(connection.keep())
    try:
        yield connection
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        if not keeping.cancelled():
            keeping.result()
