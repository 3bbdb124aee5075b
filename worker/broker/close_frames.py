"""What RabbitMQ said when it closed a connection or a channel. aiormq's exceptions keep the text only."""

import traceback
from collections.abc import Iterator

from aio_pika.exceptions import AMQPError
from pamqp import commands

CloseFrame = commands.Connection.Close | commands.Channel.Close


def close_frame(error: BaseException) -> CloseFrame | None:
    """The frame by which RabbitMQ closed a connection or a channel, if this error or its cause comes of one."""
    for each in _chain(error):
        for frame, _ in traceback.walk_tb(each.__traceback__):
            received = frame.f_locals.get("frame")
            if isinstance(received, CloseFrame):
                return received
    return None


def broker_words(error: BaseException | None) -> str:
    """Why something closed, in a text for the log: code, text, class and method, as far as they are known.

    The texts are RabbitMQ's own: they name queues, exchanges, virtual hosts and users, and never a password.
    """
    if error is None:
        return "closed by this side"
    frame = close_frame(error)
    if frame is None:
        broker_text = str(error) if isinstance(error, AMQPError) else ""
        return ": ".join(filter(None, (type(error).__name__, broker_text)))
    words = f"{frame.reply_code} {frame.reply_text}"
    if not frame.class_id:
        return words
    name = commands.INDEX_MAPPING.get((frame.class_id << 16) | (frame.method_id or 0))
    method = getattr(name, "name", "an unknown method")
    return f"{words} (class {frame.class_id}, method {frame.method_id}: {method})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
