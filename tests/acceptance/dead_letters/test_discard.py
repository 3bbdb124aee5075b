"""`dead-letters discard` removes dead letters, and writes each into the event log."""

import base64
import json
from datetime import UTC, datetime

from sql.connection import Connection
from tests.acceptance.dead_letters.conftest import CREATED_DEAD, die, tool
from tests.wire import Wire, run_created
from worker.settings import WorkerSettings


async def test_each_discarded_dead_letter_is_logged_once_with_its_body(
    settings: WorkerSettings, wire: Wire, queues: None, connection: Connection
) -> None:
    created = run_created(orgId="acme", note="nul \u0000 and [brackets]")
    bodies = {
        "valid": json.dumps(created).encode(),
        "no run": b'{"runId": 7, "orgId": "acme"}',
        "raw nul": b"a\x00b",
        "not UTF-8": b"\xff\xfe",
        "empty": b"",
    }
    for _ in range(2):
        for name, body in bodies.items():
            await die(wire, body, message_id=name, code="INVALID_EVENT")
        discard = await tool(
            "discard",
            "--error-code",
            "INVALID_EVENT",
            "--reason",
            "sent\nby mistake",
            "--yes",
            settings=settings,
        )
        assert (discard.code, discard.out) == (
            0,
            f"discarded {len(bodies)} dead letters\n  {CREATED_DEAD}: {len(bodies)} INVALID_EVENT\n",
        )
        assert await wire.count_in(CREATED_DEAD) == 0
    rows = await connection.fetch("SELECT * FROM export_run_events")
    entries = {json.loads(row["payload"])["messageId"]: (row, json.loads(row["payload"])) for row in rows}
    assert len(rows) == len(bodies)
    for name, body in bodies.items():
        row, payload = entries[name]
        assert (row["event_type"], row["origin"]) == ("dead-letter-discarded", "command")
        decode = base64.b64decode if payload["bodyEncoding"] == "base64" else str.encode
        assert decode(payload.pop("body")) == body
        assert datetime.fromisoformat(payload.pop("failedAt")) < datetime.now(UTC)
        assert payload.pop("discardedBy")
        assert payload == {
            "queue": CREATED_DEAD,
            "messageId": name,
            "errorCode": "INVALID_EVENT",
            "errorDetail": "INVALID_EVENT it was",
            "reason": "sent\nby mistake",
            "claimIds": [],
            "bodyEncoding": "base64" if name == "not UTF-8" else "utf-8",
        }
        run_id = created["runId"] if name == "valid" else None
        assert (row["run_id"] and str(row["run_id"])) == run_id
        assert row["org_id"] == ("acme" if name in ("valid", "no run") else None)


async def test_a_dead_letter_that_cannot_be_logged_is_not_discarded(
    settings: WorkerSettings, wire: Wire, queues: None, connection: Connection
) -> None:
    await die(wire, b"x")
    discard = ["discard", "--all", "--reason", "x", "--yes"]
    nowhere = {"EXPORT_RUNS_DATABASE_URL": "postgresql://postgres:secret@127.0.0.1:1/x"}
    failed = await tool(*discard, settings=settings, **nowhere)
    assert (failed.code, "database" in failed.err, "secret" in failed.err) == (3, True, False)
    assert await wire.count_in(CREATED_DEAD) == 1
    await connection.execute("ALTER TABLE export_run_events RENAME TO elsewhere")
    failed = await tool(*discard, settings=settings)
    assert (failed.code, failed.out) == (3, "discarded 0 dead letters\n")
    assert await wire.count_in(CREATED_DEAD) == 1
