"""Runs a worker with a bug that the checker must find: `python -m tests.chaos.planted BUG worker`."""

import itertools
import random
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import sql
import sql.connection
import worker.broker.messages
import worker.database.errors
import worker.events.consumer
import worker.requests.reply_sender
from cli.main import main
from handlers import event_log, events
from handlers.query_arguments import column_arrays
from schema import names
from worker.broker.publisher import Publisher

BUG_EVERY: Final = 10
"""A bug that is not there every time strikes at every tenth batch, alert or reply."""


def ack_before_commit() -> None:
    """Acknowledge a batch before it is stored, not afterwards."""
    acknowledged: dict[int, Any] = {}
    process, ack = worker.events.consumer.EventConsumer._process, worker.broker.messages.ack

    async def ack_first(self: worker.events.consumer.EventConsumer, batch: Sequence[Any]) -> None:
        for delivery in batch:
            await ack(self._link, delivery)
            acknowledged[id(delivery)] = delivery
        await process(self, batch)

    async def ack_once(link: Any, *deliveries: Any) -> None:
        if rest := [delivery for delivery in deliveries if id(delivery) not in acknowledged]:
            await ack(link, *rest)

    _plant(worker.events.consumer.EventConsumer, "_process", ack_first)
    _plant(worker.broker.messages, "ack", ack_once)


def drop_dedupe() -> None:
    """Log every event, also one that is logged already. (The campaign drops the primary key.)"""
    _edit_queries(lambda text: text.replace("ON CONFLICT (event_id) DO NOTHING", ""))


def forget_one_event() -> None:
    """Store every tenth batch without its last event."""
    batches = itertools.count(1)

    def forgetting(store: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def forget(connection: Any, events: Sequence[Any]) -> None:
            is_forgetful = len(events) > 1 and next(batches) % BUG_EVERY == 0
            await store(connection, events[:-1] if is_forgetful else events)

        return forget

    init = worker.events.consumer.EventConsumer.__init__

    def init_forgetful(self: worker.events.consumer.EventConsumer, route: Any, *others: Any) -> None:
        init(self, replace(route, store=forgetting(route.store)), *others)

    _plant(worker.events.consumer.EventConsumer, "__init__", init_forgetful)


def unsorted_upsert() -> None:
    """Write rows in a random order, and not sorted."""

    def shuffled(rows: Iterable[tuple[object, ...]]) -> list[tuple[object, ...]]:
        order = list(rows)
        random.shuffle(order)
        return column_arrays(order)

    _plant(event_log, "column_arrays", shuffled)
    _plant(events, "column_arrays", shuffled)
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
    """Grant claims that other runs hold, and take them away from those runs."""
    leases = "FROM claim_leases\n    WHERE claim_id = ANY"
    free_claims = "AS free (claim_id) CROSS JOIN token"
    overwrite = (
        " ON CONFLICT (claim_id, org_id) DO UPDATE SET"
        " run_id = excluded.run_id, expires_at = excluded.expires_at, fencing_token = excluded.fencing_token"
    )
    _edit_queries(
        lambda text: text.replace(leases, leases.replace("WHERE", "WHERE false AND")).replace(
            free_claims, free_claims + overwrite
        )
    )


def undo_reversals() -> None:
    """Let an event that arrives later say again that a claim is exported that was taken back."""
    higher = "greatest(claim.outcome, excluded.outcome)"
    _edit_queries(
        lambda text: text.replace(higher, f"CASE claim.outcome WHEN 'reversed' THEN excluded.outcome ELSE {higher} END")
    )


def no_bug() -> None:
    """Plant nothing: the same campaign finds nothing then."""


def forget_alerts() -> None:
    """Take every tenth alert out of the outbox without publishing it."""
    attempts = itertools.count(1)
    publish = Publisher.publish

    async def forget(publisher: Publisher, exchange: str, *others: Any) -> bool:
        is_forgotten = exchange != names.DEAD_LETTER_EXCHANGE and not next(attempts) % BUG_EVERY
        return is_forgotten or await publish(publisher, exchange, *others)

    _plant(Publisher, "publish", forget)


def reply_twice() -> None:
    """Send every tenth reply twice."""
    replies = itertools.count(1)
    reply = worker.broker.messages.reply

    async def repeat(link: Any, answers: Sequence[Any]) -> bool:
        if next(replies) % BUG_EVERY == 0:
            await reply(link, answers)
        return await reply(link, answers)

    _plant(worker.requests.reply_sender, "reply", repeat)


def lock_timeout_is_outage() -> None:
    """Take a lock time-out for an outage of the database: try the whole batch again, until the lock is gone."""
    interrupted = tuple(each for each in worker.database.errors._INTERRUPTED if each != "55P03")
    _plant(worker.database.errors, "_INTERRUPTED", interrupted)
    _plant(worker.database.errors, "_UNAVAILABLE", (*worker.database.errors._UNAVAILABLE, "55P03"))


def ack_without_standby() -> None:
    """Do not wait for the standby when a repeated write finds that it is stored."""
    assert "pg_logical_emit_message" in sql.connection._COMMIT
    _plant(sql.connection, "_COMMIT", "COMMIT")


def _edit_queries(edit: Callable[[str], str]) -> None:
    query = sql.query
    assert any(edit(query(name)) != query(name) for name in sql.query_names()), "the bug is in no query"
    _plant(sql, "query", lambda name: edit(query(name)))


def _plant(owner: object, name: str, bug: object) -> None:
    assert hasattr(owner, name), f"{owner} has no {name}: the bug would do nothing"
    setattr(owner, name, bug)


BUGS: Final[dict[str, Callable[[], None]]] = {
    "ack-before-commit": ack_before_commit,
    "drop-dedupe": drop_dedupe,
    "forget-one-event": forget_one_event,
    "unsorted-upsert": unsorted_upsert,
    "ignore-leases": ignore_leases,
    "forget-alerts": forget_alerts,
    "reply-twice": reply_twice,
    "lock-timeout-is-outage": lock_timeout_is_outage,
    "ack-without-standby": ack_without_standby,
    "undo-reversals": undo_reversals,
    "none": no_bug,
}

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    main()
