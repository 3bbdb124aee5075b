"""Where a reply may go: whoever may ask may not make the worker write into any queue, or break its connection."""

import base64
import re
from dataclasses import dataclass
from typing import Final

import structlog

from schema import names

LOG_INTERVAL_S: Final = 60
"""An address that cannot be used is logged once in this time, however many requests name it."""

LOGGED_ADDRESSES_MAX: Final = 100
"""Addresses logged in this time; of more only the requests are counted. Whoever invents addresses fills no disk."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# `amq.rabbitmq.reply-to.<token>.<key>`: RabbitMQ makes this address, puts it in place of the client's
# `amq.rabbitmq.reply-to`, and decodes it when a reply is sent there. Every version from 3.9 to 4.3 makes the same form:
# - the token is an Erlang process id in base64, in the external term format of Erlang: 131, NEW_PID_EXT (X), the node's
#   name as ATOM_UTF8_EXT (v and two bytes of length), then id, serial and creation, four bytes each;
# - the node's name is `reply@` and a hash of the real one, erlang:phash2/1, which is below 2**27;
# - the key is a GUID of 16 bytes in base64.
_DIRECT_REPLY_TO: Final = re.compile(
    re.escape(names.DIRECT_REPLY_PREFIX) + r"(?P<token>[A-Za-z0-9+/]+={0,2})\.(?P<key>[A-Za-z0-9+/]{22}==)"
)
_PROCESS_ID: Final = re.compile(
    rb"\x83Xv\x00(?P<name_bytes>.)reply@(?P<node_hash>0|[1-9][0-9]{0,8})(?P<id>.{4})(?P<serial>.{4}).{4}", re.DOTALL
)
_NODE_NAME_PREFIX_BYTES: Final = len(b"reply@")
_NODE_HASHES: Final = 2**27

_SHORT_IDS: Final = 2**15
_SHORT_SERIALS: Final = 2**13
"""Up to Erlang 25 every process has an id and a serial below these."""

# aio-pika's robust connection names a queue so when the client gives it no name.
_AIO_PIKA_QUEUE: Final = re.compile(r"amq_[0-9a-f]{32}")


class UnusableReplyTo(Exception):
    """No reply may go to this address; the text says why."""


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """An address that a reply may go to, by its form."""

    node_hash: int | None
    """Of a direct address: RabbitMQ's hash of the node that its client is connected to. None for a queue."""

    has_short_numbers: bool
    """Whether any Erlang can have a process with the numbers in a direct address."""


_QUEUE: Final = ReplyAddress(None, True)


def read_reply_address(reply_to: str | None, queue_prefixes: tuple[str, ...]) -> ReplyAddress:
    """What a request's `reply_to` names: a direct address as RabbitMQ makes it, or a queue named as allowed.

    Raises UnusableReplyTo. Queues named by RabbitMQ or by aio-pika are allowed besides those with these prefixes.
    """
    if not reply_to:
        raise UnusableReplyTo("there is none")
    if reply_to.startswith(names.DIRECT_REPLY_PREFIX):
        return _read_direct(reply_to)
    if reply_to.startswith((names.SERVER_NAMED_PREFIX, *queue_prefixes)) or _AIO_PIKA_QUEUE.fullmatch(reply_to):
        return _QUEUE
    raise UnusableReplyTo(
        "the name of a reply queue must be RabbitMQ's own or start with one of EXPORT_RUNS_REPLY_QUEUE_PREFIXES: "
        + ", ".join(queue_prefixes)
    )


def _read_direct(reply_to: str) -> ReplyAddress:
    direct = _DIRECT_REPLY_TO.fullmatch(reply_to)
    token = _decoded(direct["token"]) if direct else None
    process_id = _PROCESS_ID.fullmatch(token) if token else None
    if direct is None or process_id is None or _decoded(direct["key"]) is None:
        raise UnusableReplyTo("RabbitMQ makes no direct reply-to address of this form")
    digits, node_hash = process_id["node_hash"], int(process_id["node_hash"])
    if process_id["name_bytes"][0] != _NODE_NAME_PREFIX_BYTES + len(digits) or node_hash >= _NODE_HASHES:
        raise UnusableReplyTo("RabbitMQ makes no direct reply-to address with this node name")
    has_short_id = int.from_bytes(process_id["id"], "big") < _SHORT_IDS
    has_short_serial = int.from_bytes(process_id["serial"], "big") < _SHORT_SERIALS
    return ReplyAddress(node_hash, has_short_id and has_short_serial)


def _decoded(text: str) -> bytes | None:
    """The bytes of a text in base64; None where an encoder would not have written it so."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return decoded if base64.b64encode(decoded).decode() == text else None


def direct_reply_to(node_hash: int) -> str:
    """A direct address on this node at which nobody listens."""
    name = b"reply@%d" % node_hash
    token = b"\x83Xv" + len(name).to_bytes(2, "big") + name + bytes(12)
    return f"{names.DIRECT_REPLY_PREFIX}{base64.b64encode(token).decode()}.{base64.b64encode(bytes(16)).decode()}"


class UnusableAddressLog:
    """Logs the requests that cannot be answered: which address they named, and what is wrong with it."""

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}
        self._not_logged = 0

    def warn(self, now_s: float, reply_to: str | None, reason: str, **fields: str | None) -> None:
        """Log it, unless this address was logged a moment ago. `not_logged` counts what was left out since.

        `now_s` is read from a clock that never goes back.
        """
        while self._logged_at:
            oldest, logged_at = next(iter(self._logged_at.items()))
            if now_s - logged_at < LOG_INTERVAL_S:
                break
            del self._logged_at[oldest]
        address = reply_to or ""
        if address in self._logged_at or len(self._logged_at) >= LOGGED_ADDRESSES_MAX:
            self._not_logged += 1
            return
        self._logged_at[address] = now_s
        log.warning(
            "request_without_usable_reply_to", reply_to=reply_to, reason=reason, not_logged=self._not_logged, **fields
        )
        self._not_logged = 0
