"""A proxy between a program and RabbitMQ. It forwards all bytes unchanged, and reads what both sides say.

So it sees what no consumer of a message can see: whether a channel has confirms, whether a message was mandatory, and
when the program got the confirm.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from pamqp.commands import Basic, Channel, Confirm, Connection
from pamqp.common import Struct
from pamqp.constants import FRAME_BODY, FRAME_HEADER, FRAME_HEADER_SIZE, FRAME_METHOD, REPLY_SUCCESS
from pamqp.frame import unmarshal
from pamqp.header import ContentHeader

from cli.conformance.timeline import Publication, Timeline
from schema.events import RUN_FINISHED

HOST: Final = "127.0.0.1"
PROTOCOL_HEADER_BYTES: Final = 8
CHUNK_BYTES: Final = 64 * 1024

CONFIRM_HELD_S: Final = 1.5
"""How long a confirm is held back, where that is what is played."""

OPERATOR_CLOSED: Final = 320
"""The code with which RabbitMQ closes connections when it stops."""

READ_METHODS: Final = {
    each.index: each
    for each in (Basic.Publish, Basic.Ack, Confirm.Select, Channel.Open, Channel.Close, Connection.Close)
}
"""The methods that are decoded; nothing else is."""


@dataclass(slots=True)
class ChannelState:
    """What is known of one channel of a connection."""

    has_confirms: bool = False
    published: int = 0
    open: dict[int, Publication] = field(default_factory=dict)
    """What is not confirmed yet, by its delivery tag."""

    current: Publication | None = None
    missing_bytes: int = 0


@dataclass(slots=True)
class Interference:
    """What the proxy does to confirms of events."""

    hold_confirms: bool = False
    cut_end: bool = False
    """The connection is cut once, in place of the confirm of a `run-finished`."""


class Wire:
    """One connection of the program."""

    def __init__(self, timeline: Timeline, interference: Interference) -> None:
        self._timeline = timeline
        self._interference = interference
        self._channels: dict[int, ChannelState] = {}
        self._is_closing = False

    def from_program(self, frame: bytes, now_s: float) -> None:
        """Read a frame that the program sends."""
        kind, channel = frame[0], Struct.ushort.unpack(frame[1:3])[0]
        state = self._channels.setdefault(channel, ChannelState())
        if kind == FRAME_METHOD:
            self._method_of_program(frame, channel, now_s)
        elif kind == FRAME_HEADER and state.current is not None:
            _, _, header = unmarshal(frame)
            assert isinstance(header, ContentHeader)
            state.current.properties = header.properties
            state.missing_bytes = header.body_size
            self._complete(state)
        elif kind == FRAME_BODY and state.current is not None:
            state.current.body += frame[FRAME_HEADER_SIZE:-1]
            state.missing_bytes -= len(frame) - FRAME_HEADER_SIZE - 1
            self._complete(state)

    def from_broker(self, frame: bytes, now_s: float) -> bool:
        """Read a frame that RabbitMQ sends; returns whether the connection is to be cut in its place."""
        channel = Struct.ushort.unpack(frame[1:3])[0]
        match _method(frame):
            case Basic.Ack() as ack:
                state = self._channels.setdefault(channel, ChannelState())
                return self._confirmed(state, ack, now_s)
            case Channel.Close() | Connection.Close() as close:
                if close.reply_code not in (REPLY_SUCCESS, OPERATOR_CLOSED):
                    self._timeline.closings.append(close.reply_text)
            case _:
                pass
        return False

    def holds(self, frame: bytes) -> bool:
        """Whether this frame of RabbitMQ is to be held back for a while."""
        if not self._interference.hold_confirms or not isinstance(_method(frame), Basic.Ack):
            return False
        state = self._channels.get(Struct.ushort.unpack(frame[1:3])[0])
        return state is not None and any(each.is_event for each in state.open.values())

    def _method_of_program(self, frame: bytes, channel: int, now_s: float) -> None:
        state = self._channels[channel]
        match _method(frame):
            case Channel.Open():
                self._channels[channel] = ChannelState()
            case Confirm.Select():
                state.has_confirms = True
            case Channel.Close():
                state.open.clear()
            case Connection.Close():
                self._is_closing = True
            case Basic.Publish() as publish:
                state.current = Publication(
                    now_s, publish.exchange, publish.routing_key, publish.mandatory, state.has_confirms
                )
            case _:
                pass

    def _complete(self, state: ChannelState) -> None:
        """Note the message if all of it is there."""
        if state.missing_bytes > 0 or state.current is None:
            return
        self._timeline.publications.append(state.current)
        if state.has_confirms:
            state.published += 1
            state.open[state.published] = state.current
        state.current = None

    def _confirmed(self, state: ChannelState, ack: Basic.Ack, now_s: float) -> bool:
        tags = [tag for tag in state.open if tag == ack.delivery_tag or (ack.multiple and tag < ack.delivery_tag)]
        confirmed = [state.open.pop(tag) for tag in tags]
        ends = [each for each in confirmed if each.is_event and each.routing_key == RUN_FINISHED]
        if self._interference.cut_end and ends:
            self._interference.cut_end = False
            for each in confirmed:
                each.was_cut = True
            return True
        if not self._is_closing:  # or nobody hears it any more
            for each in confirmed:
                each.confirmed_at_s = now_s
        return False


def _method(frame: bytes) -> object:
    """The method in a frame, if it is one of READ_METHODS."""
    if frame[0] != FRAME_METHOD:
        return None
    if READ_METHODS.get(Struct.integer.unpack(frame[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + 4])[0]) is None:
        return None
    return unmarshal(frame)[2]


class Proxy:
    """Listens on a port of this machine for the program's connections. Made by open_proxy."""

    def __init__(self, url: str, timeline: Timeline, interference: Interference) -> None:
        self._target = urlsplit(url)
        self._tls = _tls(url)
        self._timeline = timeline
        self._interference = interference
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Where the program connects: the user and the virtual host are those of RabbitMQ's URL."""
        user, at, _ = self._target.netloc.rpartition("@")
        return f"amqp://{user}{at}{HOST}:{self.port}{self._target.path}"

    def cut(self) -> None:
        """Drop all connections. New ones are accepted."""
        for connection in self._connections:
            connection.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until one side ends it."""
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            port = self._target.port or (5671 if self._tls else 5672)
            answers, forward = await asyncio.open_connection(self._target.hostname, port, ssl=self._tls)
            try:
                wire = Wire(self._timeline, self._interference)
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(_pump_from_program(wire, reader, forward))
                    pumps.create_task(_pump_from_broker(wire, answers, writer))
            finally:
                forward.transport.abort()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one side has closed, so the other is closed as well
        finally:
            writer.transport.abort()
            self._connections.discard(connection)


async def _pump_from_program(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.writelines([await reader.readexactly(PROTOCOL_HEADER_BYTES)])
    async for frame in _frames(reader):
        wire.from_program(frame, asyncio.get_running_loop().time())
        writer.writelines([frame])
        await writer.drain()
    raise ConnectionResetError


async def _pump_from_broker(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for frame in _frames(reader):
        if wire.holds(frame):
            await asyncio.sleep(CONFIRM_HELD_S)
        if wire.from_broker(frame, asyncio.get_running_loop().time()):
            raise ConnectionAbortedError
        writer.writelines([frame])
        await writer.drain()
    raise ConnectionResetError


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The frames that one side sends, until it ends."""
    while True:
        try:
            header = await reader.readexactly(FRAME_HEADER_SIZE)
            size_bytes = Struct.integer.unpack(header[3:7])[0]
            yield header + await reader.readexactly(size_bytes + 1)
        except asyncio.IncompleteReadError:
            return


def _tls(url: str) -> ssl.SSLContext | None:
    """What the library makes of the same URL, for a proxy that speaks TLS to RabbitMQ, and none to the program."""
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return None
    query = dict(parse_qsl(parts.query))
    context = ssl.create_default_context(cafile=query.get("cafile"), capath=query.get("capath"))
    if "certfile" in query:
        context.load_cert_chain(query["certfile"], query.get("keyfile"))
    if query.get("no_verify_ssl", "0") != "0":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def open_proxy(url: str, timeline: Timeline, interference: Interference) -> AsyncIterator[Proxy]:
    """A proxy to RabbitMQ at this URL, on a free port of this machine, until the end of the block."""
    proxy = Proxy(url, timeline, interference)
    server = await asyncio.start_server(proxy.serve, HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
