"""Which function handles which event, and which function which request."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from handlers import claims, double_exports, events, history, reservations, runs, stale_runs, writes
from handlers.connection import Connection
from schema import operations
from schema.events import EVENTS, RUN_CREATED, RUN_FINISHED, RunCreated, RunFinished
from schema.fields import WireModel
from schema.operations import Operation
from worker.waiting import QUERY_SIZE_MAX

Event = TypeVar("Event", RunCreated, RunFinished)
Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)


@dataclass(frozen=True, slots=True)
class EventRoute(Generic[Event]):
    """An event type, the model of its body, and what stores a batch of them, whole or not at all."""

    event_type: str
    model: type[Event]
    store: Callable[[Connection, Sequence[Event]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RequestRoute(Generic[Request, Result]):
    """An operation, what answers its requests, and how many of them are worked on at once.

    Each operation has its own queue and its own limits, so that a flood of one leaves the others alone.
    """

    operation: Operation[Request, Result]

    answer: Callable[[Connection, Sequence[Request]], Awaitable[Sequence[Result]]]
    """Answers, one a request, in their order."""

    size: Callable[[Request], int]
    """How much of a query a request fills; small ones that wait together share one (see waiting)."""

    queries_max: int
    """Queries under way at once, each on a connection of its own."""

    held_max: int
    """Requests taken from the queue and not answered yet. Each is answered in time, if only with UNAVAILABLE."""


def one_a_query(
    operation: Operation[Request, Result], handle: Callable[[Connection, Request], Awaitable[Result]], queries_max: int
) -> RequestRoute[Request, Result]:
    """A route whose requests each take a query of their own."""

    async def answer(connection: Connection, requests: Sequence[Request]) -> Sequence[Result]:
        return [await handle(connection, request) for request in requests]

    return RequestRoute(operation, answer, lambda _: QUERY_SIZE_MAX, queries_max, held_max=4 * queries_max)


EVENT_ROUTES: Final[tuple[EventRoute[Any], ...]] = (
    EventRoute(RUN_CREATED, RunCreated, events.store_created),
    EventRoute(RUN_FINISHED, RunFinished, events.store_finished),
)

REQUEST_ROUTES: Final[tuple[RequestRoute[Any, Any], ...]] = (
    RequestRoute(
        operations.CHECK_CLAIMS,
        claims.check_claims,
        size=lambda request: len(request.claim_ids),
        queries_max=4,
        held_max=128,
    ),
    one_a_query(operations.RESERVE_CLAIMS, reservations.reserve_claims, queries_max=4),
    one_a_query(operations.RELEASE_CLAIMS, reservations.release_claims, queries_max=2),
    one_a_query(operations.FIND_RUNS_BY_CLAIM_ID, runs.find_runs_by_claim_id, queries_max=2),
    one_a_query(operations.GET_EXPORT_RUN_BY_ID, runs.get_export_run_by_id, queries_max=2),
    one_a_query(operations.GET_EXPORT_HISTORY, history.get_export_history, queries_max=4),
    one_a_query(operations.CREATE_EXPORT_RUN, writes.create_export_run, queries_max=2),
    one_a_query(operations.UPDATE_EXPORT_RUN_STATUS, writes.update_export_run_status, queries_max=2),
    one_a_query(operations.DELETE_EXPORT_RUN, writes.delete_export_run, queries_max=1),
    one_a_query(operations.LIST_DOUBLE_EXPORTS, double_exports.list_double_exports, queries_max=1),
    one_a_query(operations.RESOLVE_DOUBLE_EXPORT, double_exports.resolve_double_export, queries_max=1),
    one_a_query(operations.LIST_STALE_RUNS, stale_runs.list_stale_runs, queries_max=1),
)

WRITES_MAX: Final = 2
"""Batches of an event queue under way at once: one is decoded while PostgreSQL writes the other."""

DATABASE_CONNECTIONS_MAX: Final = (
    WRITES_MAX * len(EVENT_ROUTES) + sum(route.queries_max for route in REQUEST_ROUTES) + 2  # alerts, stale runs
)
"""One for every write and every query that can be under way: nobody waits for a connection."""

assert {route.event_type for route in EVENT_ROUTES} == set(EVENTS)
assert [route.operation.name for route in REQUEST_ROUTES] and (
    {route.operation.name for route in REQUEST_ROUTES} == {each.name for each in operations.OPERATIONS}
)
