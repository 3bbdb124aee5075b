"""A consumer that only acknowledges, by RabbitMQ's client library for C: one ack for as many events as a batch has.

The library does all the work. Python calls it once or twice for each event and looks at nothing but the delivery tag.
"""

from ctypes import CDLL, Structure, byref, c_char, c_char_p, c_int, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from typing import Final
from urllib.parse import unquote, urlsplit

from benchmarks.peers.environment import EVENTS_QUEUE, LIBRABBITMQ, amqp_url, prefetch

EVENTS_PER_ACK: Final = 200
"""What the worker acknowledges at once, at best."""

CHANNEL: Final = 1
FRAME_BYTES_MAX: Final = 131_072
NO_HEARTBEAT: Final = 0
SASL_PLAIN: Final = 0
NORMAL: Final = 1
"""The reply type of a call that succeeded."""


class Bytes(Structure):
    """amqp_bytes_t."""

    _fields_ = (("length", c_size_t), ("bytes", c_char_p))


class Table(Structure):
    """amqp_table_t."""

    _fields_ = (("count", c_int), ("entries", c_void_p))


class Method(Structure):
    """amqp_method_t."""

    _fields_ = (("id", c_uint32), ("decoded", c_void_p))


class Reply(Structure):
    """amqp_rpc_reply_t."""

    _fields_ = (("type", c_int), ("reply", Method), ("library_error", c_int))


class Envelope(Structure):
    """amqp_envelope_t. `rest` is larger than what follows in it: the library writes there."""

    _fields_ = (("channel", c_uint16), ("consumer_tag", Bytes), ("delivery_tag", c_uint64), ("rest", c_char * 1024))


def main() -> None:
    """Consume until the process is ended."""
    library = CDLL(LIBRABBITMQ)
    library.amqp_new_connection.restype = c_void_p
    library.amqp_tcp_socket_new.restype = c_void_p
    for call in (library.amqp_login, library.amqp_get_rpc_reply, library.amqp_consume_message):
        call.restype = Reply

    url = urlsplit(amqp_url())
    assert url.hostname and url.port and url.username and url.password
    connection = c_void_p(library.amqp_new_connection())
    socket = c_void_p(library.amqp_tcp_socket_new(connection))
    if status := library.amqp_socket_open(socket, url.hostname.encode(), url.port):
        raise ConnectionError(f"librabbitmq could not connect: status {status}")
    vhost, user, password = (unquote(part).encode() for part in (url.path[1:] or "/", url.username, url.password))
    check(
        library.amqp_login(connection, vhost, 0, FRAME_BYTES_MAX, NO_HEARTBEAT, SASL_PLAIN, user, password),
        "log in",
    )
    library.amqp_channel_open(connection, CHANNEL)
    check(library.amqp_get_rpc_reply(connection), "open a channel")
    library.amqp_basic_qos(connection, CHANNEL, 0, prefetch(), False)
    check(library.amqp_get_rpc_reply(connection), "set the prefetch")
    queue = EVENTS_QUEUE.encode()
    library.amqp_basic_consume(connection, CHANNEL, Bytes(len(queue), queue), Bytes(), False, False, False, Table())
    check(library.amqp_get_rpc_reply(connection), "consume")

    envelope = Envelope()
    while True:
        library.amqp_maybe_release_buffers(connection)
        check(library.amqp_consume_message(connection, byref(envelope), None, 0), "receive an event")
        library.amqp_destroy_envelope(byref(envelope))
        if envelope.delivery_tag % EVENTS_PER_ACK == 0:
            library.amqp_basic_ack(connection, CHANNEL, c_uint64(envelope.delivery_tag), True)


def check(reply: Reply, what: str) -> None:
    """Raises ConnectionError if a call of the library has failed."""
    if reply.type != NORMAL:
        raise ConnectionError(f"librabbitmq could not {what}: type {reply.type}, error {reply.library_error}")


if __name__ == "__main__":
    main()
