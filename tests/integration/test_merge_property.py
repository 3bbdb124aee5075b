"""The state is a function of the set of events: any order, any duplication, any batches, two writers."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.connection import Connection
from handlers.events import store_created, store_finished
from schema.events import RunCreated, RunFinished, RunStatus
from schema.fields import RunError, SkippedClaim
from tests.conftest import cloned_database
from tests.model import CREATED_FACTS, state_of

Event = RunCreated | RunFinished

RUNS = 3
START = datetime(2026, 1, 1, tzinfo=UTC)

worlds = count(1)

times = st.integers(0, 3).map(lambda minutes: START + timedelta(minutes=minutes))
claims = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=4)
few = st.sampled_from(["x", "y"])


@st.composite
def created(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "occurred_at": draw(times),
        "run": draw(st.integers(0, RUNS - 1)),
        "triggered_by": draw(few),
        "format": "csv",
        "target_system": draw(st.none() | few),
    }


@st.composite
def finished(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "occurred_at": draw(times),
        "run": draw(st.integers(0, RUNS - 1)),
        "status": draw(st.sampled_from([RunStatus.FAILED, RunStatus.PARTIAL, RunStatus.COMPLETED])),
        "claim_ids": draw(claims),
        "skipped_claims": [
            SkippedClaim(claim_id=claim_id, reason=reason)
            for claim_id, reason in draw(st.lists(st.tuples(st.sampled_from("abcd"), few), max_size=2))
        ],
        "error": draw(st.none() | st.just(RunError(code="E", detail="d"))),
        "external_ack_id": draw(st.none() | few),
    }


def in_world(world: int, drawn: Sequence[dict[str, Any]]) -> list[Event]:
    """The events of one world: its own run and event ids, in the same order in every world."""
    events: list[Event] = []
    for number, fields in enumerate(drawn):
        facts = {key: value for key, value in fields.items() if key != "run"}
        model = RunFinished if "status" in facts else RunCreated
        event = model(
            event_id=UUID(int=(world << 64) + number),
            schema_version=1,
            run_id=run_of(world, fields["run"]),
            org_id="org",
            **facts,
        )
        events.append(event.with_payload(event.model_dump_json()))
    return events


def run_of(world: int, run: int) -> UUID:
    return UUID(int=(world << 64) + run)


async def store(connection: Connection, batch: Sequence[Event]) -> None:
    """Store a batch as the two consumers would: each type by itself."""
    if starts := [event for event in batch if isinstance(event, RunCreated)]:
        await store_created(connection, starts)
    if ends := [event for event in batch if isinstance(event, RunFinished)]:
        await store_finished(connection, ends)


async def state_in(connection: Connection, world: int) -> list[dict[str, Any] | None]:
    states: list[dict[str, Any] | None] = []
    for run in range(RUNS):
        row = await connection.fetchrow("SELECT * FROM export_runs WHERE run_id = $1", run_of(world, run))
        if row is None:
            states.append(None)
            continue
        rows = await connection.fetch(
            "SELECT claim_id, outcome, skip_reason FROM export_run_claims WHERE run_id = $1",
            run_of(world, run),
        )
        state = {key: row[key] for key in COMPARED}
        state["claims"] = {each["claim_id"]: (each["outcome"], each["skip_reason"]) for each in rows}
        states.append(state)
    return states


COMPARED = (
    "created_at",
    "status",
    "finished_at",
    "external_ack_id",
    "error_code",
    "claim_count",
    "skipped_count",
    "has_conflict",
    *CREATED_FACTS,
)


def test_any_order_and_any_batches_give_the_state_of_the_set(template_url: str) -> None:
    loop = asyncio.new_event_loop()
    database = cloned_database(template_url)
    url = loop.run_until_complete(database.__aenter__())
    writers = [loop.run_until_complete(asyncpg.connect(url)) for _ in range(2)]

    async def example(drawn: list[dict[str, Any]], chance: random.Random) -> None:
        world = next(worlds)
        events = in_world(world, drawn)
        deliveries = events + [event for event in events if chance.random() < 0.5]
        chance.shuffle(deliveries)
        shares = deliveries[::2], deliveries[1::2]

        async def write(writer: Connection, share: Sequence[Event]) -> None:
            position = 0
            while position < len(share):
                size = chance.randint(1, 5)
                await store(writer, share[position : position + size])
                position += size

        async with asyncio.TaskGroup() as both:
            for writer, share in zip(writers, shares, strict=True):
                both.create_task(write(writer, share))
        expected = [
            state_of(of_run) if (of_run := [each for each in events if each.run_id == run_of(world, run)]) else None
            for run in range(RUNS)
        ]
        assert await state_in(writers[0], world) == expected

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(created() | finished(), max_size=9), st.integers(0, 2**32))
    def check(drawn: list[dict[str, Any]], seed: int) -> None:
        loop.run_until_complete(example(drawn, random.Random(seed)))

    try:
        check()
    finally:
        for writer in writers:
            loop.run_until_complete(writer.close())
        loop.run_until_complete(database.__aexit__(None, None, None))
        loop.close()
