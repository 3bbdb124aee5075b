"""Where a reply may go: whoever may ask may not make the worker write into any queue, or break its connection."""

import base64
import binascii
import re
from typing import Final

from schema import names

# `amq.rabbitmq.reply-to.<token>.<key>`: the token is an Erlang process id in base64. RabbitMQ makes it, puts it in
# place of the client's `amq.rabbitmq.reply-to`, and decodes it when a reply is sent there. A forged one that is no
# process id makes it close the connection that sent the reply (541, seen on 3.10.8).
# https://www.erlang.org/doc/apps/erts/erl_ext_dist.html: 131, then NEW_PID_EXT (X) or PID_EXT (g), then the node as an
# atom with one byte (s, w) or two bytes (d, v) of length, then three numbers of 12 or 9 bytes together.
_PROCESS_ID: Final = re.compile(rb"\x83(?P<pid>[Xg])(?:[sw](?P<short>.)|[dv](?P<long>..))", re.DOTALL)
_NUMBERS_BYTES: Final = {b"X": 12, b"g": 9}


def may_reply_to(reply_to: str, queue_prefixes: tuple[str, ...]) -> bool:
    """Whether a reply may go to an address: a direct one that the broker made, or a queue named as allowed."""
    if reply_to.startswith(names.DIRECT_REPLY_PREFIX):
        token, dot, key = reply_to.removeprefix(names.DIRECT_REPLY_PREFIX).partition(".")
        return bool(dot and key) and is_process_id(token)
    return reply_to.startswith(queue_prefixes)


def is_process_id(token: str) -> bool:
    """Whether a token decodes to exactly one Erlang process id."""
    try:
        decoded = base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        return False
    head = _PROCESS_ID.match(decoded)
    if head is None:
        return False
    node_bytes = int.from_bytes(head["short"] or head["long"])
    return len(decoded) == head.end() + node_bytes + _NUMBERS_BYTES[head["pid"]]
