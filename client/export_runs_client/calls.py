"""One request and its answer: time-outs, retries, and the exception of each error code."""

import asyncio
import random
from collections import Counter
from typing import Any, Final, TypeVar, assert_never

from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from .connection import Connection
from .errors import ERRORS, ConnectionLost, ExportRunsError, InvalidRequest, MessageRefused, NoAnswer, Unavailable
from .links import Link
from .schema.decoding import InvalidBody, decode
from .schema.errors import ErrorCode
from .schema.fields import WireModel
from .schema.operations import Operation
from .schema.replies import ErrorBody, ErrorReply, OkReply, decode_reply
from .schema.requests import CreateExportRun, ResolveDoubleExport

RETRIES_MAX: Final = 1
"""After `UNAVAILABLE`, and after a lost connection."""

REFUSED_RETRIES_MAX: Final = 4
"""After a refusal by RabbitMQ: a request queue that changes its leader refuses for a second or two."""

RETRY_PAUSE_S: Final = 0.2
"""Before the first retry, twice as long before each further one; shortened by up to a half at random."""

RETRY_TIME_MIN_S: Final = 0.1
"""With less time left a request is not sent again."""

CLOCK_FIELD: Final = "timestamp"
"""What the details of `UNAVAILABLE` name where the request was older than its time-out when it came."""

Model = TypeVar("Model", bound=WireModel)
Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)


def built(operation: str, model: type[Model], **fields: Any) -> Model:
    """The model of an operation with these fields, those that are None left out. Raises InvalidRequest.

    A field may be what JSON has in its place: a text for a UUID, a date or the member of an enumeration.
    """
    given = {to_camel(field): value for field, value in fields.items() if value is not None}
    try:
        return decode(model, to_json(given))
    except InvalidBody as invalid:
        error = ErrorBody(
            code=ErrorCode.INVALID_REQUEST,
            message="the request is not valid",
            retryable=False,
            details=list(invalid.details),
        )
        raise InvalidRequest(operation, error) from None


def is_safe_to_repeat(request: WireModel) -> bool:
    """Whether a request that may have been carried out can be sent again."""
    match request:
        case CreateExportRun():
            return request.run_id is not None  # else each request makes a run
        case ResolveDoubleExport():
            return request.run_count is not None  # else it could resolve what nobody has seen
        case _:
            return True


async def call(
    connection: Connection, operation: Operation[Request, Result], request: Request, timeout_s: float
) -> Result:
    """Send a request and wait for its result, for `timeout_s` in all; raises an ExportRunsError.

    Where the answer is `UNAVAILABLE`, or the connection is lost meanwhile, it is sent once more; where RabbitMQ refuses
    it, up to REFUSED_RETRIES_MAX times more. Both only if it is safe to repeat and time is left.
    """
    loop = asyncio.get_running_loop()
    body = request.model_dump_json(exclude_none=True).encode()
    end_s = loop.time() + timeout_s
    may_repeat = is_safe_to_repeat(request)
    retries: Counter[type[ExportRunsError]] = Counter()
    while True:
        try:
            return await _attempt(connection, operation, body, end_s - loop.time(), timeout_s)
        except (ConnectionLost, MessageRefused, Unavailable) as error:
            retries_max = REFUSED_RETRIES_MAX if isinstance(error, MessageRefused) else RETRIES_MAX
            used_up = retries[type(error)] == retries_max
            pause_s = RETRY_PAUSE_S * 2 ** retries.total() * random.uniform(0.5, 1.0)
            too_late = end_s - loop.time() < pause_s + RETRY_TIME_MIN_S
            if not may_repeat or used_up or too_late or _blames_the_clock(error):
                raise
            retries[type(error)] += 1
            await asyncio.sleep(pause_s)


async def _attempt(
    connection: Connection,
    operation: Operation[Request, Result],
    body: bytes,
    left_s: float,
    timeout_s: float,
) -> Result:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + left_s
    linked = False
    confirmed = asyncio.Event()
    try:
        async with asyncio.timeout(left_s):
            link = await connection.link()
            linked = True
            return await answer(link, operation, body, max(end_s - loop.time(), RETRY_TIME_MIN_S), confirmed)
    except TimeoutError:
        why = silence(confirmed) if linked else connection.problem
        raise NoAnswer(f"{operation.name}: no answer within {timeout_s:g} s: {why}") from None


def silence(confirmed: asyncio.Event) -> str:
    """Why nobody may have answered a request in time, which RabbitMQ has `confirmed` or not."""
    if confirmed.is_set():
        return "is a worker running?"
    return "RabbitMQ has not taken the request: is it short of memory, or the queue without a leader?"


async def answer(
    link: Link,
    operation: Operation[Request, Result],
    body: bytes,
    expiration_s: float,
    confirmed: asyncio.Event,
) -> Result:
    """Send a request once and wait for its result, without a time-out; raises an ExportRunsError.

    RabbitMQ drops the request after `expiration_s`. `confirmed` is set when RabbitMQ has taken it.
    """
    reply_body = await link.ask(operation.name, body, expiration_s, confirmed)
    try:
        reply = decode_reply(operation.result, reply_body)
    except ValidationError as error:
        raise NoAnswer(f"{operation.name}: the answer is not one of this contract: {error}") from error
    match reply:
        case OkReply():
            return reply.result
        case ErrorReply():
            raise ERRORS[reply.error.code](operation.name, reply.error)
        case _:
            assert_never(reply)


def _blames_the_clock(error: ConnectionLost | MessageRefused | Unavailable) -> bool:
    """Whether the service found the request too old when it came: the clock of this machine is wrong."""
    return isinstance(error, Unavailable) and any(detail.field == CLOCK_FIELD for detail in error.error.details)
