"""A worker with a bug in it, for the checker to catch: `python -m tests.chaos.planted BUG worker`."""

import itertools
import random
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import sql
import worker.alerts
import worker.amqp
import worker.events
import worker.requests
import worker.routes
import worker.session
from handlers import events as handler
from worker.cli import main

FORGETFUL_BATCH: Final = 10
"""Every so manieth batch of several events loses one."""


def ack_before_commit() -> None:
    """Acknowledge a batch when it is taken, not when it is stored."""
    acknowledged: dict[int, Any] = {}
    process, ack = worker.events.EventConsumer._process, worker.amqp.ack

    async def ack_first(self: worker.events.EventConsumer, batch: Sequence[Any], stopping: Any) -> None:
        for delivery in batch:
            await ack(delivery)
            acknowledged[id(delivery)] = delivery
        await process(self, batch, stopping)

    async def ack_once(*deliveries: Any) -> None:
        if left := [delivery for delivery in deliveries if id(delivery) not in acknowledged]:
            await ack(*left)

    _plant(worker.events.EventConsumer, "_process", ack_first)
    _plant(worker.events, "ack", ack_once)


def drop_dedupe() -> None:
    """Log whatever comes, known or not. (The campaign takes the primary key away.)"""
    _edit_queries(lambda text: text.replace("ON CONFLICT (event_id) DO NOTHING", ""))


def forget_one_event() -> None:
    """Now and then store a batch without its last event, and say nothing."""
    batches = itertools.count(1)

    def forgetting(store: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def forget(connection: Any, events: Sequence[Any]) -> None:
            forgetful = len(events) > 1 and next(batches) % FORGETFUL_BATCH == 0
            await store(connection, events[:-1] if forgetful else events)

        return forget

    forgetful = tuple(replace(route, store=forgetting(route.store)) for route in worker.routes.EVENT_ROUTES)
    _plant(worker.session, "EVENT_ROUTES", forgetful)


def unsorted_upsert() -> None:
    """Write rows in the order in which they come, which is any."""
    columns = handler._columns

    def shuffled(rows: Iterable[tuple[object, ...]]) -> list[tuple[object, ...]]:
        some = list(rows)
        random.shuffle(some)
        return columns(some)

    _plant(handler, "_columns", shuffled)
    orders = {
        "ORDER BY event_id": "",
        "ORDER BY event.run_id": "",
        "SELECT DISTINCT hash": "SELECT hash",
        "ORDER BY key": "ORDER BY random()",
    }

    def unsort(text: str) -> str:
        for order, other in orders.items():
            text = text.replace(order, other)
        return text

    _edit_queries(unsort)


def ignore_leases() -> None:
    """Grant claims whoever holds them, and take them away from whoever does."""
    found = "FROM claim_leases\n    WHERE claim_id = ANY"
    free = "AS free (claim_id) CROSS JOIN token"
    taking = (
        " ON CONFLICT (claim_id, org_id) DO UPDATE SET"
        " run_id = excluded.run_id, expires_at = excluded.expires_at, fencing_token = excluded.fencing_token"
    )
    _edit_queries(
        lambda text: text.replace(found, found.replace("WHERE", "WHERE false AND")).replace(free, free + taking)
    )


def forget_alerts() -> None:
    """Take alerts out of the outbox now and then without publishing them."""
    attempts = itertools.count(1)
    publish = worker.amqp.publish

    async def forget(*arguments: Any) -> bool:
        return not next(attempts) % FORGETFUL_BATCH or await publish(*arguments)

    _plant(worker.alerts, "publish", forget)


def reply_twice() -> None:
    """Send every so manieth reply a second time."""
    replies = itertools.count(1)
    reply = worker.amqp.reply

    async def repeat(link: Any, answers: Sequence[Any]) -> None:
        await reply(link, answers)
        if next(replies) % FORGETFUL_BATCH == 0:
            await reply(link, answers)

    _plant(worker.requests, "reply", repeat)


def _edit_queries(edit: Callable[[str], str]) -> None:
    query = sql.query
    assert any(edit(query(name)) != query(name) for name in sql.query_names()), "the bug is in no query"
    _plant(sql, "query", lambda name: edit(query(name)))


def _plant(owner: object, name: str, bug: object) -> None:
    setattr(owner, name, bug)


BUGS: Final[dict[str, Callable[[], None]]] = {
    "ack-before-commit": ack_before_commit,
    "drop-dedupe": drop_dedupe,
    "forget-one-event": forget_one_event,
    "unsorted-upsert": unsorted_upsert,
    "ignore-leases": ignore_leases,
    "forget-alerts": forget_alerts,
    "reply-twice": reply_twice,
}

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    main()
