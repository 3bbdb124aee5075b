"""Which function handles which event, and which function answers which request."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar, assert_never

from handlers import (
    claim_explanation,
    claims,
    double_exports,
    events,
    history,
    last_export,
    periods,
    reservations,
    reversals,
    run_claims,
    runs,
    stale_runs,
    writes,
)
from schema import operations
from schema.events import EVENTS, RUN_CREATED, RUN_FINISHED, RunCreated, RunFinished
from schema.fields import WireModel
from schema.operations import Operation
from schema.results import PendingEvents
from sql.connection import Connection

Event = TypeVar("Event", RunCreated, RunFinished)
Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)


@dataclass(frozen=True, slots=True)
class EventRoute(Generic[Event]):
    """An event type, the model of its body, and what stores a batch of them in a transaction of the caller's."""

    event_type: str
    model: type[Event]
    store: Callable[[Connection, Sequence[Event]], Awaitable[None]]

    claims: Callable[[Event], int]
    """How many claims an event names."""


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """What an answer may depend on besides its request and the database."""

    until_s: float
    """A write is not committed after this time, by the event loop's clock: its caller has heard UNAVAILABLE by then. It
    raises TooLate instead."""

    pending_events: PendingEvents | None
    """The events that are not stored yet, as far as this worker knows."""


@dataclass(frozen=True, slots=True)
class RequestRoute(Generic[Request, Result]):
    """An operation, the function that answers its requests, and how many of them are worked on at once.

    Each operation has its own queue and its own limits, so that a flood of one leaves the others alone.
    """

    operation: Operation[Request, Result]

    answer: Callable[[Connection, Sequence[Request], AnswerContext], Awaitable[Sequence[Result]]]
    """Takes requests; returns the answer to each, in the same order."""

    claims: Callable[[Request], int] | None
    """How many claims a request names: small requests that wait together share a query. None: each takes its own."""

    queries_max: int
    """Queries that run at once, each on a connection of its own."""

    held_max: int
    """Requests that a worker holds unanswered. Each is answered in time, if only with UNAVAILABLE."""


def one_per_query(
    operation: Operation[Request, Result], handle: Callable[[Connection, Request], Awaitable[Result]], queries_max: int
) -> RequestRoute[Request, Result]:
    """A route on which each request has a query of its own."""

    async def answer(connection: Connection, request: Request, _: float) -> Result:
        return await handle(connection, request)

    return one_write_per_query(operation, answer, queries_max)


def one_write_per_query(
    operation: Operation[Request, Result],
    handle: Callable[[Connection, Request, float], Awaitable[Result]],
    queries_max: int,
) -> RequestRoute[Request, Result]:
    """A route on which each request is a transaction of its own, which is not committed too late."""

    async def answer(connection: Connection, requests: Sequence[Request], context: AnswerContext) -> Sequence[Result]:
        return [await handle(connection, request, context.until_s) for request in requests]

    return RequestRoute(operation, answer, None, queries_max, held_max=4 * queries_max)


class Part(StrEnum):
    """What a worker does in a process of its own."""

    EVENTS = "events"
    """Store events, publish alerts, look for stale runs."""

    REQUESTS = "requests"
    """Answer requests."""


@dataclass(frozen=True, slots=True)
class Routes:
    """Every message that a worker takes, and what handles it."""

    events: tuple[EventRoute[Any], ...]
    requests: tuple[RequestRoute[Any, Any], ...]

    def only(self, part: Part) -> "Routes":
        """Those of one part."""
        match part:
            case Part.EVENTS:
                return Routes(self.events, ())
            case Part.REQUESTS:
                return Routes((), self.requests)
            case _:
                assert_never(part)


def _claims_of_finished(event: RunFinished) -> int:
    return len(event.claim_ids) + len(event.skipped_claims) + len(event.claim_details)


ROUTES: Final = Routes(
    events=(
        EventRoute(RUN_CREATED, RunCreated, events.merge_created, claims=lambda event: 0),
        EventRoute(
            RUN_FINISHED,
            RunFinished,
            events.merge_finished,
            claims=_claims_of_finished,
        ),
    ),
    requests=(
        RequestRoute(
            operations.CHECK_CLAIMS,
            lambda connection, requests, context: claims.check_claims(connection, requests, context.pending_events),
            claims=lambda request: len(request.claim_ids),
            queries_max=4,
            held_max=128,
        ),
        one_write_per_query(operations.RESERVE_CLAIMS, reservations.reserve_claims, queries_max=4),
        one_write_per_query(operations.RELEASE_CLAIMS, reservations.release_claims, queries_max=2),
        one_write_per_query(operations.REVERSE_EXPORT, reversals.reverse_export, queries_max=1),
        one_per_query(operations.FIND_RUNS_BY_CLAIM_ID, runs.find_runs_by_claim_id, queries_max=2),
        one_per_query(operations.GET_EXPORT_RUN_BY_ID, runs.get_export_run_by_id, queries_max=2),
        one_per_query(operations.LIST_RUN_CLAIMS, run_claims.list_run_claims, queries_max=2),
        one_per_query(operations.GET_EXPORT_HISTORY, history.get_export_history, queries_max=4),
        one_per_query(operations.EXPLAIN_CLAIM, claim_explanation.explain_claim, queries_max=1),
        one_per_query(operations.CHECK_PERIOD, periods.check_period, queries_max=2),
        one_per_query(operations.GET_LAST_EXPORT, last_export.get_last_export, queries_max=2),
        one_write_per_query(operations.CREATE_EXPORT_RUN, writes.create_export_run, queries_max=2),
        one_write_per_query(operations.UPDATE_EXPORT_RUN_STATUS, writes.update_export_run_status, queries_max=2),
        one_write_per_query(operations.DELETE_EXPORT_RUN, writes.delete_export_run, queries_max=1),
        one_per_query(operations.LIST_DOUBLE_EXPORTS, double_exports.list_double_exports, queries_max=1),
        one_write_per_query(operations.RESOLVE_DOUBLE_EXPORT, double_exports.resolve_double_export, queries_max=1),
        one_per_query(operations.LIST_STALE_RUNS, stale_runs.list_stale_runs, queries_max=1),
    ),
)

assert {route.event_type for route in ROUTES.events} == set(EVENTS)
assert {route.operation.name for route in ROUTES.requests} == {each.name for each in operations.OPERATIONS}
