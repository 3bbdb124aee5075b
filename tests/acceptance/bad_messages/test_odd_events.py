"""Events that are odd but allowed are stored as they were published."""

import asyncio
from uuid import UUID, uuid4

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import BODY_BYTES_MAX, encode
from tests.acceptance.bad_messages.events import (
    FORGED_HEADERS,
    UNKNOWN_VALUES,
    VALID,
    artifact,
    assert_stored,
    both_types,
    padded,
    take_now,
)
from tests.wire import Json, Wire, now, run_created, run_finished

ODD: dict[str, Json] = {
    **{f"unknown field: {what}": {"unknownField": value} for what, value in UNKNOWN_VALUES.items()},
    "snake case beside camel case": {"org_id": 5, "run_id": None, "schema_version": 2},
    "NaN as text": {"orgId": "NaN", "note": "-Infinity"},
    "200 characters": {"orgId": "x" * 200},
    "200 emoji": {"orgId": "\N{GRINNING FACE}" * 200},
    "SQL": {"orgId": "'; DROP TABLE export_runs; --"},
    "backslashes and braces": {"orgId": '\\"{NULL,""}\\N'},
    "lower case t and z": {"occurredAt": "2026-01-01t00:00:00z"},
    "nanoseconds": {"occurredAt": "2026-01-01T00:00:00.123456789Z"},
    "long ago": {"occurredAt": "0001-02-01T00:00:00-14:00"},
    "far from now": {"occurredAt": "9999-12-01T00:00:00+14:00"},
}

ODD_OF_TYPE: dict[str, dict[str, Json]] = {
    "run-created": {
        "200 characters everywhere": {"triggeredBy": "x" * 200, "format": "y" * 200},
        "period of a day": {"periodStart": "2026-01-01", "periodEnd": "2026-01-01"},
        "retry of itself": {"retryOfRunId": str(uuid4())},
        "nulls": {"targetSystem": None, "periodStart": None, "override": None},
    },
    "run-finished": {
        "no claims": {"claimIds": []},
        "claims of 200 characters": {"claimIds": ["x" * 200, "\N{GRINNING FACE}" * 200]},
        "50,000 claims": {"claimIds": [f"many-{number}" for number in range(50_000)]},
        "one claim 50,000 times": {"claimIds": ["often"] * 50_000},
        "nulls": {"error": None, "artifact": None, "externalAckId": None},
        "sizeBytes 2**63 - 1": artifact(sizeBytes=2**63 - 1),
    },
}


@both_types
async def test_odd_events_are_stored(wire: Wire, connection: Connection, event_type: str) -> None:
    """The log has each event byte for byte, and each run can be read."""
    events = [VALID[event_type](**fields) for fields in (*ODD.values(), *ODD_OF_TYPE[event_type].values())]
    bodies = [encode(event) for event in events]
    large = VALID[event_type]()
    events.append(large)
    bodies.append(padded(large, BODY_BYTES_MAX))
    await asyncio.gather(*(wire.publish(event_type, body) for body in bodies))
    await assert_stored(connection, events)
    assert await take_now(wire, f"export-runs.{event_type}.dead") == []
    rows = await connection.fetch("SELECT event_id, payload::text AS payload FROM export_run_events")
    payloads = {row["event_id"]: row["payload"] for row in rows}
    differences = [
        body[:200]
        for event, body in zip(events, bodies, strict=True)
        if payloads[UUID(event["eventId"])] != body.decode()
    ]
    assert differences == []
    for event in events:
        run = await wire.run(event["runId"])
        assert run is not None
        assert run["orgId"] == event["orgId"]
        assert await claims_of(wire, run) == sorted(set(event.get("claimIds", [])))


async def claims_of(wire: Wire, run: Json) -> list[str]:
    """The claims of a run, those on further pages too."""
    claim_ids, cursor = run["claimIds"], run.get("claimsNextCursor")
    while cursor:
        page = await wire.result("list-run-claims", runId=run["runId"], limit=10_000, cursor=cursor)
        claim_ids += [claim["claimId"] for claim in page["claims"]]
        cursor = page["nextCursor"]
    return list(claim_ids)


@both_types
async def test_odd_properties_are_stored(wire: Wire, connection: Connection, event_type: str) -> None:
    """The properties and headers of a valid event make no difference."""
    properties: list[Json] = [
        {"headers": FORGED_HEADERS},
        {"headers": {"x-delivery-count": -1}},
        {"headers": {"x-delivery-count": "often", "x-death": "often"}},
        {"type": None},
        {"message_id": "x" * 255},
        {"content_type": None},
        {"reply_to": "export-runs.run-created", "correlation_id": "mine"},
        {"priority": 255},
    ]
    events = [VALID[event_type]() for _ in properties]
    for event, each in zip(events, properties, strict=True):
        await wire.publish(event_type, event, **each)
    await assert_stored(connection, events)


async def test_runs_from_very_early_and_very_late_times_can_be_read(wire: Wire) -> None:
    ancient = run_created(occurredAt="0001-02-01T00:00:00-14:00")
    distant = run_created(occurredAt="9999-12-01T00:00:00+14:00")
    for event in (ancient, distant):
        await wire.publish("run-created", event)
        await wire.until_run(event["runId"])
    history = await wire.result("get-export-history", orgId="org-1")
    assert [run["createdAt"] for run in history["runs"]] == ["0001-02-01T14:00:00Z", "9999-11-30T10:00:00Z"]
    assert ["hasFutureTime" in run for run in history["runs"]] == [False, True]
    between = await wire.result("get-export-history", orgId="org-1", createdTo=now())
    assert [run["runId"] for run in between["runs"]] == [ancient["runId"]]


async def test_long_error_detail_is_cut_in_the_row_only(wire: Wire, connection: Connection) -> None:
    detail = "\N{GRINNING FACE}" * 5_000
    event = run_finished(status="failed", error={"code": "E", "detail": detail})
    await wire.publish("run-finished", event)
    run = await wire.until_run(event["runId"])
    assert run["error"] == {"code": "E", "detail": detail[:1_999] + "…", "detailTruncated": True}
    logged = await connection.fetchval("SELECT payload #>> '{error,detail}' FROM export_run_events")
    assert logged == detail
