"""What of RabbitMQ's errors means that its URL is wrong, or its user's permissions."""

import ssl
from typing import Final

from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ConnectionNotAllowed,
    IncompatibleProtocolError,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from worker.broker.close_frames import close_frame
from worker.broker.link import SessionLost
from worker.tls_errors import certificate_sentence

NOT_ALLOWED: Final = 530

_TEMPORARY: Final = ("connection limit", "is down")
"""Words in refusals of a virtual host that somebody else's doing takes back."""


class TopologyMissing(SessionLost):
    """An exchange or a queue is not there, and the user may not make it."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is missing, and this user may not make it: import what `export-runs topology` prints, or give "
            "the user the permission to configure"
        )


def misconfiguration(error: BaseException) -> str | None:
    """What is wrong with the URL or with the permissions, in a sentence; None if the error does not speak of them.

    The sentence holds what RabbitMQ said of users, virtual hosts, exchanges and queues, and never a password.
    """
    cause: BaseException | None = error
    while cause is not None:
        if sentence := _sentence(cause):
            return sentence
        cause = cause.__cause__
    return None


def _sentence(error: BaseException) -> str | None:
    match error:
        case TopologyMissing():
            return str(error)
        case ProbableAuthenticationError():
            return "RabbitMQ does not accept the user name and password"
        case AuthenticationError():
            return "RabbitMQ does not offer the authentication mechanism that the URL names"
        case ConnectionNotAllowed() | ChannelAccessRefused():
            return _refusal(str(error))
        case InvalidFrameError():
            close = close_frame(error)
            return _refusal(close.reply_text or "") if close is not None and close.reply_code == NOT_ALLOWED else None
        case IncompatibleProtocolError():
            return "the server at this address does not speak AMQP 0-9-1"
        case FileNotFoundError() | PermissionError() | IsADirectoryError():
            return "a certificate file that the URL names cannot be read"
        case ssl.SSLError():
            return certificate_sentence(error, "RabbitMQ") or (
                "the server at this address does not speak TLS; use amqp://, or the port for TLS"
            )
        case _:
            return None


def _refusal(text: str) -> str | None:
    return None if any(word in text for word in _TEMPORARY) else f"RabbitMQ refuses it: {text}"
