"""The state depends only on the set of events: not on their order, duplicates or batches, nor on who stores them."""

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

from schema.events import RunCreated, RunFinished, RunStatus, RunTrigger
from schema.fields import ClaimDetails, ControlTotal, RunError, SkippedClaim
from sql.connection import Connection
from tests.conftest import cloned_database
from tests.model import CREATED_FACTS, state_of
from tests.storing import store_created, store_finished

Event = RunCreated | RunFinished

RUNS = 3
START = datetime(2026, 1, 1, tzinfo=UTC)

examples = count(1)

times = st.integers(0, 3).map(lambda minutes: START + timedelta(minutes=minutes))
SPELLINGS = ("a", "a ", "\u00e9", "e\u0301", "\u200be\u0301", "c", "\ufeffc\u00a0", "d")
claims = st.lists(st.sampled_from(SPELLINGS), max_size=4)
few = st.sampled_from(["x", "y"])
currencies = st.sampled_from(["EUR", "CHF"])
amounts = st.sampled_from(["1", "+2.00", "-1.5"])


@st.composite
def created(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "occurred_at": draw(times),
        "run": draw(st.integers(0, RUNS - 1)),
        "triggered_by": draw(few),
        "format": "csv",
        "target_system": draw(st.none() | few),
        "trigger": draw(st.none() | st.sampled_from(RunTrigger)),
        "scope": draw(st.none() | few),
        "imported": draw(st.none() | st.booleans()),
    }


@st.composite
def finished(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "occurred_at": draw(times),
        "run": draw(st.integers(0, RUNS - 1)),
        "status": draw(st.sampled_from([RunStatus.FAILED, RunStatus.PARTIAL, RunStatus.COMPLETED])),
        "claim_ids": draw(claims),
        "skipped_claims": [
            SkippedClaim(claim_id=claim_id, reason=reason, code=code)
            for claim_id, reason, code in draw(
                st.lists(st.tuples(st.sampled_from(SPELLINGS), few, st.none() | few), max_size=2)
            )
        ],
        "totals": [
            ControlTotal(currency=currency, claim_count=count, amount=amount)
            for currency, count, amount in draw(
                st.lists(
                    st.tuples(currencies, st.integers(0, 2), amounts), max_size=2, unique_by=lambda total: total[0]
                )
            )
        ],
        "claim_details": [
            ClaimDetails(claim_id=claim_id, voucher_id=voucher_id, amount=amount, currency=currency)
            for claim_id, voucher_id, amount, currency in draw(
                st.lists(
                    st.tuples(st.sampled_from(["a", "c ", "\u00e9"]), st.none() | few, st.none() | amounts, currencies),
                    max_size=3,
                    unique_by=lambda details: details[0],
                )
            )
        ],
        "error": draw(st.none() | st.just(RunError(code="E", detail="d"))),
        "external_ack_id": draw(st.none() | few),
        "imported": draw(st.none() | st.booleans()),
    }


def events_of(example: int, all_fields: Sequence[dict[str, Any]]) -> list[Event]:
    """The events of one example. Each example has its own run and event ids, which sort in the same order."""
    events: list[Event] = []
    for number, fields in enumerate(all_fields):
        facts = {key: value for key, value in fields.items() if key != "run"}
        model = RunFinished if "status" in facts else RunCreated
        event = model(
            event_id=UUID(int=(example << 64) + number),
            schema_version=1,
            run_id=run_of(example, fields["run"]),
            org_id="org",
            **facts,
        )
        events.append(event.with_payload(event.model_dump_json()))
    return events


def run_of(example: int, run: int) -> UUID:
    return UUID(int=(example << 64) + run)


async def store(connection: Connection, batch: Sequence[Event]) -> None:
    """Store a batch as the worker does: each type of event by itself."""
    if starts := [event for event in batch if isinstance(event, RunCreated)]:
        await store_created(connection, starts)
    if ends := [event for event in batch if isinstance(event, RunFinished)]:
        await store_finished(connection, ends)


async def state_in(connection: Connection, example: int) -> list[dict[str, Any] | None]:
    states: list[dict[str, Any] | None] = []
    for run in range(RUNS):
        row = await connection.fetchrow("SELECT * FROM export_runs WHERE run_id = $1", run_of(example, run))
        if row is None:
            states.append(None)
            continue
        rows = await connection.fetch(
            "SELECT claim_id, outcome, skip_reason FROM export_run_claims WHERE run_id = $1",
            run_of(example, run),
        )
        state = {key: row[key] for key in COLUMNS}
        state["claims"] = {each["claim_id"]: (each["outcome"], each["skip_reason"]) for each in rows}
        details = await connection.fetch(
            "SELECT claim_id, voucher_id, amount, currency, skip_code FROM claim_details "
            "WHERE run_id = $1 AND event_id = $2",
            run_of(example, run),
            row["finished_event_id"],
        )
        state["details"] = {claim_id: tuple(others) for claim_id, *others in details}
        states.append(state)
    return states


COLUMNS = (
    "created_at",
    "status",
    "finished_at",
    "external_ack_id",
    "error_code",
    "claim_count",
    "skipped_count",
    "has_conflict",
    "totals_disagree",
    "imported",
    *CREATED_FACTS,
)


def test_any_order_and_any_batches_lead_to_the_same_state(template_url: str) -> None:
    loop = asyncio.new_event_loop()
    database = cloned_database(template_url)
    url = loop.run_until_complete(database.__aenter__())
    writers = [loop.run_until_complete(asyncpg.connect(url)) for _ in range(2)]

    async def check_example(all_fields: list[dict[str, Any]], chance: random.Random) -> None:
        example = next(examples)
        events = events_of(example, all_fields)
        deliveries = events + [event for event in events if chance.random() < 0.5]
        chance.shuffle(deliveries)
        shares = deliveries[::2], deliveries[1::2]

        async def write(writer: Connection, share: Sequence[Event]) -> None:
            position = 0
            while position < len(share):
                size = chance.randint(1, 5)
                await store(writer, share[position : position + size])
                position += size

        async with asyncio.TaskGroup() as tasks:
            for writer, share in zip(writers, shares, strict=True):
                tasks.create_task(write(writer, share))
        expected = [
            state_of(of_run) if (of_run := [each for each in events if each.run_id == run_of(example, run)]) else None
            for run in range(RUNS)
        ]
        assert await state_in(writers[0], example) == expected

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(created() | finished(), max_size=9), st.integers(0, 2**32))
    def check(all_fields: list[dict[str, Any]], seed: int) -> None:
        loop.run_until_complete(check_example(all_fields, random.Random(seed)))

    try:
        check()
    finally:
        for writer in writers:
            loop.run_until_complete(writer.close())
        loop.run_until_complete(database.__aexit__(None, None, None))
        loop.close()
