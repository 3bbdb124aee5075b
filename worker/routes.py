"""Which function handles which event, and which function which request."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from handlers import claims, events, history, runs, writes
from handlers.connection import Connection
from schema import operations
from schema.events import EVENTS, RUN_CREATED, RUN_FINISHED, RunCreated, RunFinished
from schema.fields import WireModel
from schema.operations import Operation

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
    """An operation, what answers it, and how many requests of it are worked on at once.

    Each operation has its own queue and its own limit, so that a flood of one leaves the others alone.
    """

    operation: Operation[Request, Result]
    handle: Callable[[Connection, Request], Awaitable[Result]]
    concurrency: int


EVENT_ROUTES: Final[tuple[EventRoute[Any], ...]] = (
    EventRoute(RUN_CREATED, RunCreated, events.store_created),
    EventRoute(RUN_FINISHED, RunFinished, events.store_finished),
)

REQUEST_ROUTES: Final[tuple[RequestRoute[Any, Any], ...]] = (
    RequestRoute(operations.CHECK_CLAIMS, claims.check_claims, concurrency=8),
    RequestRoute(operations.FIND_RUNS_BY_CLAIM_ID, runs.find_runs_by_claim_id, concurrency=4),
    RequestRoute(operations.GET_EXPORT_RUN_BY_ID, runs.get_export_run_by_id, concurrency=4),
    RequestRoute(operations.GET_EXPORT_HISTORY, history.get_export_history, concurrency=4),
    RequestRoute(operations.CREATE_EXPORT_RUN, writes.create_export_run, concurrency=2),
    RequestRoute(operations.UPDATE_EXPORT_RUN_STATUS, writes.update_export_run_status, concurrency=2),
    RequestRoute(operations.DELETE_EXPORT_RUN, writes.delete_export_run, concurrency=2),
)

DATABASE_CONNECTIONS_MAX: Final = len(EVENT_ROUTES) + sum(route.concurrency for route in REQUEST_ROUTES)
"""One for every write and every request that can be under way: nobody waits for a connection."""

assert {route.event_type for route in EVENT_ROUTES} == set(EVENTS)
assert [route.operation.name for route in REQUEST_ROUTES] and (
    {route.operation.name for route in REQUEST_ROUTES} == {each.name for each in operations.OPERATIONS}
)
