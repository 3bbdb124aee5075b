"""The connection that replies go out on. Its loss ends nothing else: events and requests go on."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Final

import structlog

from worker.broker.blocked_connections import log_blocks
from worker.broker.link import CONNECTION_ERRORS, Link, LinkOpener, SessionLost, flush
from worker.broker.messages import Reply, reply
from worker.limits import WorkerLimits
from worker.logs import Repetitions, describe
from worker.requests.reply_addresses import UnusableAddressLog
from worker.requests.reply_nodes import ReplyNodes
from worker.retries import delays_s, is_being_cancelled
from worker.settings import BrokerSettings

LOOK_INTERVAL_S: Final = 1.0
"""How often whoever waits for a blocked connection looks whether it was replaced by another."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class ReplySender:
    """Sends replies on a connection that is opened anew, after a growing delay, whenever it is lost.

    Replies that were on their way at that moment are lost: their callers hear nothing, and ask again.
    """

    def __init__(
        self, settings: BrokerSettings, open_link: LinkOpener, limits: WorkerLimits, stopping: asyncio.Event
    ) -> None:
        self._settings = settings
        self._open_link = open_link
        self._limits = limits
        self._stopping = stopping
        self._link: Link | None = None
        self._opened = asyncio.Event()
        self._losses = Repetitions(limits.repeat_log_first_s)
        self.nodes = ReplyNodes(settings, open_link, limits)
        self.unusable_addresses = UnusableAddressLog()

    async def run(self) -> None:
        """Keep a connection open until cancelled.

        Raises SessionLost where none was open for `answering_away_max_s`: requests that this worker holds by then are
        better answered by others.
        """
        loop = asyncio.get_running_loop()
        delays, last_open_at = self._delays(), loop.time()
        while True:
            try:
                opened_at = await self._serve()
                last_open_at = loop.time()
                if last_open_at - opened_at > self._limits.session_steady_s:
                    delays = self._delays()
            except (*CONNECTION_ERRORS, asyncio.CancelledError) as error:
                if is_being_cancelled():
                    raise
                self._log_loss(None, describe(error))
            if loop.time() - last_open_at > self._limits.answering_away_max_s:
                raise SessionLost("no connection for answering could be opened")
            self.nodes.forget()
            await asyncio.sleep(next(delays))

    def _log_loss(self, reason: str | None, fields: dict[str, str]) -> None:
        """Log a loss, at growing intervals if it repeats."""
        repetition = self._losses.note(f"{reason} {fields.get('error')}", asyncio.get_running_loop().time())
        (log.debug if repetition is None else log.warning)(
            "connection_lost", purpose="answering", reason=reason, **fields, **(repetition or {})
        )

    def _delays(self) -> Iterator[float]:
        return delays_s(self._limits.retry_delay_first_s, self._limits.retry_delay_max_s)

    async def _serve(self) -> float:
        """Have one connection until it is lost; when it was opened, by the clock of the event loop."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[str] = loop.create_future()

        def note(reason: str) -> None:
            if not lost.done():
                lost.set_result(reason)

        async with self._open_link(self._settings, "answering", note) as link:
            opened_at = loop.time()
            logging_blocks = asyncio.create_task(log_blocks(link, "answering", self._stopping))
            self._link = link
            self._opened.set()
            try:
                self._log_loss(await lost, {})
            finally:
                self._opened.clear()
                self._link = None
                logging_blocks.cancel()
        return opened_at

    async def ready(self, until_s: float) -> bool:
        """Wait until replies can be sent: a connection is open, and RabbitMQ reads from it.

        False where that has not come to pass `until_s`, by the clock of the event loop, or when the worker stops.
        """
        while not await self._is_ready():
            left_s = until_s - asyncio.get_running_loop().time()
            if left_s <= 0 or self._stopping.is_set():
                return False
            # A blocked connection that is lost is never said to be ready.
            change = self._link.underlay.connection.ready() if self._link else self._opened.wait()
            await _first_of(change, self._stopping.wait(), timeout_s=min(left_s, LOOK_INTERVAL_S))
        return True

    async def _is_ready(self) -> bool:
        if self._link is None:
            return False
        try:
            async with asyncio.timeout(0):
                await self._link.underlay.connection.ready()
        except TimeoutError:
            return False
        return True

    async def send(self, replies: Sequence[Reply]) -> None:
        """Send replies, each to where its request says; wait before for `ready`."""
        if self._link is None or not await reply(self._link, replies):
            log.warning("replies_lost", replies=len(replies))

    async def flush(self) -> None:
        """Wait until RabbitMQ has read what was sent, if it reads now."""
        if self._link is not None and await self._is_ready():
            await flush(self._link)


async def _first_of(*coroutines: Coroutine[Any, Any, Any], timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
