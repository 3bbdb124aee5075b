"""How a claim stands, because of what, and what the log has of it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from handlers.claim_explanation import explain_claim
from handlers.claims import check_claims
from handlers.discards import Discard, log_discard
from handlers.double_exports import resolve_double_export
from handlers.errors import RequestRefused
from handlers.log_replay import remove_run
from handlers.purge import purge_run, unpurge_run
from handlers.reservations import release_claims, reserve_claims
from handlers.writes import create_export_run, delete_export_run, update_export_run_status
from schema.decoding import decode
from schema.events import ClaimOutcome
from schema.fields import WireModel
from schema.requests import (
    CheckClaims,
    CreateExportRun,
    DeleteExportRun,
    ExplainClaim,
    ReleaseClaims,
    ReserveClaims,
    ResolveDoubleExport,
    UpdateExportRunStatus,
)
from schema.results import EventReason, ExplainedClaim, LeaseReason, OverrideReason, RuleReason, StandingReason
from sql.connection import Connection
from tests.storing import created_event, finished_event, store_created, store_finished
from tests.wire import run_finished

OVERRIDE = {"reason": "the first was lost", "approvedBy": "carol"}


def request(model: type[WireModel], **fields: Any) -> Any:
    return decode(model, json.dumps({"orgId": "org-1", **fields}).encode())


async def explain(connection: Connection, **fields: Any) -> ExplainedClaim:
    """An explanation, whose standing is what a check says."""
    asked: ExplainClaim = request(ExplainClaim, **{"claimId": "c-1", **fields})
    explained = await explain_claim(connection, asked)
    [checked] = await check_claims(connection, [CheckClaims(org_id=asked.org_id, claim_ids=[asked.claim_id])])
    assert {"exported": checked.exported, "reserved": checked.reserved, "unexported": checked.unexported}[
        explained.standing
    ]
    return explained


async def finish(connection: Connection, run_id: UUID | None = None, **fields: Any) -> UUID:
    """End a run; returns its id."""
    event = finished_event(**{"runId": str(run_id or uuid4()), "claimIds": ["c-1"], **fields})
    await store_finished(connection, [event])
    return event.run_id


async def reserve(connection: Connection, run_id: UUID | None = None, **fields: Any) -> UUID:
    """Reserve c-1 for a run, which must be granted; returns the run's id."""
    run_id = run_id or uuid4()
    answer = await reserve_claims(connection, request(ReserveClaims, runId=str(run_id), claimIds=["c-1"], **fields))
    assert answer.granted == ["c-1"]
    return run_id


async def expire_leases(connection: Connection) -> None:
    await connection.execute("UPDATE claim_leases SET expires_at = now() - interval '1 minute'")


def rule_of(explained: ExplainedClaim) -> str:
    [rule] = [each.rule for each in explained.because if isinstance(each, RuleReason)]
    assert isinstance(explained.because[0], RuleReason)
    return rule


def others(explained: ExplainedClaim) -> Sequence[StandingReason]:
    """The reasons but for the rule."""
    return explained.because[1:]


def told(explained: ExplainedClaim) -> list[tuple[str, UUID | None, str | None]]:
    """The timeline as types, runs and outcomes."""
    return [(entry.event_type, entry.run_id, entry.outcome) for entry in explained.timeline]


async def test_a_claim_that_nobody_knows(connection: Connection) -> None:
    await finish(connection, orgId="org-2")
    await finish(connection, claimIds=["c-2"])
    explained = await explain(connection)
    assert (explained.standing, rule_of(explained)) == ("unexported", "no-run-exported")
    assert (others(explained), explained.timeline, explained.next_cursor) == ([], [], None)


async def test_an_exported_claim_names_the_event_of_each_export(connection: Connection) -> None:
    created = created_event()
    first = finished_event(runId=str(created.run_id), occurredAt="2026-01-01T00:00:00Z", claimIds=["c-1"])
    second = finished_event(occurredAt="2026-01-02T00:00:00Z", claimIds=["c-2", "c-1"], status="partial")
    await store_created(connection, [created])
    await store_finished(connection, [second])
    await store_finished(connection, [first])
    explained = await explain(connection)
    assert (explained.standing, rule_of(explained)) == ("exported", "any-run-exported")
    assert others(explained) == [
        EventReason(
            event_id=event.event_id,
            event_type="run-finished",
            run_id=event.run_id,
            occurred_at=event.occurred_at,
            outcome=ClaimOutcome.EXPORTED,
        )
        for event in (first, second)
    ]
    assert told(explained) == [
        ("run-created", first.run_id, None),
        ("run-finished", second.run_id, "exported"),
        ("run-finished", first.run_id, "exported"),
    ]
    assert [entry.status for entry in explained.timeline] == [None, "partial", "completed"]
    assert (explained.timeline[0].actor, explained.timeline[0].origin) == ("alice", "event")


async def test_the_event_of_an_export_is_the_one_that_names_the_claim(connection: Connection) -> None:
    """Events of one run disagree: the one that made its facts does not name the claim."""
    run_id = await finish(connection, claimIds=["c-2"], occurredAt="2026-01-01T00:00:00Z")
    other = finished_event(runId=str(run_id), claimIds=["c-1"], occurredAt="2026-01-02T00:00:00Z")
    await store_finished(connection, [other])
    explained = await explain(connection)
    [reason] = others(explained)
    assert isinstance(reason, EventReason)
    assert (reason.event_id, reason.occurred_at) == (other.event_id, other.occurred_at)
    assert told(explained) == [("run-finished", run_id, None), ("run-finished", run_id, "exported")]


async def test_attempted_and_skipped_claims_are_unexported_and_say_why(connection: Connection) -> None:
    skipped = await finish(
        connection,
        claimIds=[],
        skippedClaims=[{"claimId": "c-1", "reason": "no receipt"}],
        occurredAt="2026-01-01T00:00:00Z",
    )
    failed = await finish(connection, status="failed", occurredAt="2026-01-02T00:00:00Z")
    explained = await explain(connection)
    assert (explained.standing, rule_of(explained)) == ("unexported", "no-run-exported")
    reasons = [(each.run_id, each.outcome) for each in others(explained) if isinstance(each, EventReason)]
    assert reasons == [(failed, "attempted"), (skipped, "skipped")]
    assert [(entry.outcome, entry.reason) for entry in explained.timeline] == [
        ("skipped", "no receipt"),
        ("attempted", None),
    ]


async def test_a_lease_and_one_that_has_expired(connection: Connection) -> None:
    run_id = await reserve(connection)
    for rule, has_expired in (("lease-holds", False), ("expired-lease-holds", True)):
        explained = await explain(connection)
        assert (explained.standing, rule_of(explained)) == ("reserved", rule)
        [lease] = others(explained)
        assert isinstance(lease, LeaseReason)
        assert (lease.run_id, lease.has_expired, lease.fencing_token > 0) == (run_id, has_expired, True)
        await expire_leases(connection)


async def test_the_run_that_holds_a_claim_is_in_its_timeline(connection: Connection) -> None:
    created = created_event()
    await store_created(connection, [created])
    assert (await explain(connection)).timeline == []
    await reserve(connection, created.run_id)
    assert told(await explain(connection)) == [("run-created", created.run_id, None)]


async def test_a_lease_that_was_taken_is_in_the_timeline_for_ever(connection: Connection) -> None:
    slow = await reserve(connection)
    await expire_leases(connection)
    taker = await reserve(connection, takeExpired=True)
    await release_claims(connection, request(ReleaseClaims, runId=str(taker)))
    explained = await explain(connection)
    assert (explained.standing, told(explained)) == ("unexported", [("claims-taken", taker, None)])
    [entry] = explained.timeline
    assert (entry.other_run_ids, entry.approved_by, entry.reason) == ([slow], None, None)


async def test_an_override_and_its_withdrawal(connection: Connection) -> None:
    first = await finish(connection)
    second = await reserve(connection, override=OVERRIDE)
    explained = await explain(connection)
    [event, override, lease] = others(explained)
    assert isinstance(event, EventReason)
    assert isinstance(lease, LeaseReason)
    assert isinstance(override, OverrideReason)
    assert explained.standing == "exported"
    assert (override.run_id, override.earlier_run_id) == (second, first)
    assert (override.approved_by, override.reason) == ("carol", "the first was lost")
    taken = explained.timeline[-1]
    assert (taken.event_type, taken.run_id, taken.other_run_ids) == ("claims-taken", second, [first])
    assert (taken.approved_by, taken.reason) == ("carol", "the first was lost")

    await release_claims(connection, request(ReleaseClaims, runId=str(second)))
    explained = await explain(connection)
    assert [type(reason) for reason in others(explained)] == [EventReason]
    assert [entry.event_type for entry in explained.timeline] == ["run-finished", "claims-taken", "overrides-withdrawn"]


async def test_a_resolution_names_who_and_why(connection: Connection) -> None:
    runs = [await finish(connection), await finish(connection)]
    note = request(ResolveDoubleExport, claimId="c-1", resolvedBy="bob", note="the money came back")
    await resolve_double_export(connection, note)
    entry = (await explain(connection)).timeline[-1]
    assert (entry.event_type, entry.run_id, entry.actor) == ("double-export-resolved", None, "bob")
    assert (entry.reason, set(entry.other_run_ids)) == ("the money came back", set(runs))


async def test_a_deleted_run_still_exports(connection: Connection) -> None:
    run_id = await finish(connection)
    await delete_export_run(connection, request(DeleteExportRun, runId=str(run_id), deletedBy="bob", reason="a test"))
    explained = await explain(connection)
    assert explained.standing == "exported"
    entry = explained.timeline[-1]
    assert (entry.event_type, entry.actor, entry.reason, entry.origin) == ("run-deleted", "bob", "a test", "request")


async def test_purges_are_found_by_any_spelling_and_the_last_in_the_log_comes_first(connection: Connection) -> None:
    """The clock of the database may have gone back between two of them."""
    runs = [uuid4() for _ in range(2)]
    await connection.execute(
        "INSERT INTO respelled_claims (org_id, claim_id, spelling) VALUES ('org-1', 'c-1', 'c-1 ')"
    )
    for run_id, spelling, time in zip(runs, ("c-1", "c-1 "), ("2026-01-02Z", "2026-01-01Z"), strict=True):
        await finish(connection, run_id)
        await remove_run(connection, run_id, datetime.now(UTC))
        await connection.execute(
            "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload) "
            "VALUES ($1, 'run-purged', 'command', $1, 'org-1', $2::text::timestamptz, $3::text::json)",
            run_id,
            time,
            json.dumps({"purgedBy": "bob", "freedClaims": [spelling]}),
        )
    purges = [each.run_id for each in others(await explain(connection)) if isinstance(each, EventReason)]
    assert purges == runs[::-1]


@pytest.mark.parametrize("other_exports", [0, 1])
async def test_a_purged_run_is_explained_and_so_is_its_return(connection: Connection, other_exports: int) -> None:
    """Also where the claim was not freed by the purge, because another run had exported it."""
    for _ in range(other_exports):
        await finish(connection)
    run_id = await finish(connection)
    await purge_run(connection, run_id, "bob")
    explained = await explain(connection)
    assert explained.standing == ("exported" if other_exports else "unexported")
    purge = others(explained)[-1]
    assert isinstance(purge, EventReason)
    assert (purge.event_type, purge.run_id, purge.outcome) == ("run-purged", run_id, None)
    assert told(explained)[other_exports:] == [("run-finished", run_id, "exported"), ("run-purged", run_id, None)]

    await unpurge_run(connection, run_id, "carol")
    explained = await explain(connection)
    assert explained.standing == "exported"
    assert "run-purged" not in [each.event_type for each in others(explained) if isinstance(each, EventReason)]
    assert [(entry.event_type, entry.actor) for entry in explained.timeline[-2:]] == [
        ("run-purged", "bob"),
        ("run-unpurged", "carol"),
    ]


async def test_requests_are_in_the_timeline_as_events_are(connection: Connection) -> None:
    run = await create_export_run(connection, request(CreateExportRun, triggeredBy="dave", format="csv"))
    fields = {"runId": str(run.run_id), "status": "completed", "claimIds": ["c-1"]}
    await update_export_run_status(connection, request(UpdateExportRunStatus, **fields))
    timeline = (await explain(connection)).timeline
    assert [(entry.event_type, entry.origin, entry.actor, entry.outcome) for entry in timeline] == [
        ("run-created", "request", "dave", None),
        ("run-finished", "request", None, "exported"),
    ]


@pytest.mark.parametrize("field", ["claimIds", "skippedClaims"])
async def test_a_dead_letter_that_was_discarded_is_in_the_timeline(connection: Connection, field: str) -> None:
    """Somebody threw away what would have said that the claim has gone out."""
    claims = ["c-1 "] if field == "claimIds" else [{"claimId": "c-1", "reason": "no receipt"}]
    event = run_finished(**{"occurredAt": "yesterday", "claimIds": [], "note": "nul \0", field: claims})
    body = json.dumps(event).encode()
    discard = Discard("a queue", "an id", "INVALID_EVENT", "a detail", None, "it was a test", "alice", body)
    await log_discard(connection, discard)
    [entry] = (await explain(connection)).timeline
    assert (entry.event_type, entry.actor, entry.reason) == ("dead-letter-discarded", "alice", "it was a test")
    assert (str(entry.run_id), entry.origin) == (event["runId"], "command")


async def test_the_timeline_is_in_the_order_of_the_log(connection: Connection) -> None:
    """Not by any clock: the database's clock may be put back."""
    runs = [await finish(connection) for _ in range(3)]
    await connection.execute("SET session_replication_role = replica")
    await connection.execute("UPDATE export_run_events SET received_at = received_at - position * interval '1 hour'")
    await connection.execute("SET session_replication_role = origin")
    assert [entry.run_id for entry in (await explain(connection)).timeline] == runs


async def test_what_runs_did_with_other_claims_is_not_in_the_timeline(connection: Connection) -> None:
    await finish(connection, claimIds=["c-2"])
    both = uuid4()
    fields = {"runId": str(both), "claimIds": ["c-1", "c-2"], "override": OVERRIDE}
    await reserve_claims(connection, request(ReserveClaims, **fields))
    await finish(connection, both, claimIds=["c-1", "c-2"])
    assert told(await explain(connection)) == [("run-finished", both, "exported")]
    assert [entry.event_type for entry in (await explain(connection, claimId="c-2")).timeline] == [
        "run-finished",
        "claims-taken",
        "run-finished",
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 50])
async def test_pages_show_every_entry_once_in_its_order(connection: Connection, limit: int) -> None:
    runs = [await finish(connection) for _ in range(7)]
    walked: list[UUID | None] = []
    cursor = None
    while True:
        page = await explain(connection, limit=limit, cursor=cursor)
        assert len(page.timeline) <= limit
        walked += [entry.run_id for entry in page.timeline]
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert walked == runs


async def test_a_cursor_belongs_to_its_claim_in_whatever_spelling(connection: Connection) -> None:
    for _ in range(2):
        await finish(connection, claimIds=["c-1", "c-2"])
    cursor = (await explain(connection, limit=1)).next_cursor
    assert len((await explain(connection, claimId="\u200bc-1 ", cursor=cursor)).timeline) == 1
    with pytest.raises(RequestRefused) as refused:
        await explain(connection, claimId="c-2", cursor=cursor)
    assert [detail.field for detail in refused.value.details] == ["cursor"]


async def test_a_page_ends_when_much_of_the_log_was_read(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has at least one entry, however large that is."""
    runs = [await finish(connection, claimIds=["c-1", f"{'x' * 150}-{number}"]) for number in range(3)]
    for bytes_max, pages in ((1, [1, 1, 1]), (700, [1, 1, 1]), (1_000, [2, 1]), (10_000, [3])):
        monkeypatch.setattr("handlers.claim_timeline.TIMELINE_PAGE_BYTES_MAX", bytes_max)
        found: list[int] = []
        walked: list[UUID | None] = []
        cursor = None
        while not found or cursor is not None:
            page = await explain(connection, cursor=cursor)
            found.append(len(page.timeline))
            walked += [entry.run_id for entry in page.timeline]
            cursor = page.next_cursor
        assert (found, walked) == (pages, runs)


async def test_at_most_ten_exports_are_named(connection: Connection) -> None:
    runs = [await finish(connection, occurredAt=f"2026-01-{day:02}T00:00:00Z") for day in range(1, 13)]
    reasons = [each.run_id for each in others(await explain(connection)) if isinstance(each, EventReason)]
    assert reasons == runs[:10]


async def test_a_claim_is_explained_in_any_spelling(connection: Connection) -> None:
    first = await finish(connection, claimIds=[" c-1"])
    second = await reserve(connection, override=OVERRIDE)
    explained = await explain(connection, claimId="c-1\u200b ")
    assert (explained.standing, told(explained)) == (
        "exported",
        [("run-finished", first, "exported"), ("claims-taken", second, None)],
    )


async def test_entries_from_before_claim_ids_had_a_canonical_form_are_found(connection: Connection) -> None:
    slow, taker = uuid4(), uuid4()
    taken = {"claimId": " c-1", "fromRunId": str(slow), "expiredAt": "2026-01-01T00:00:00+00:00"}
    await connection.execute(
        "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload) "
        "VALUES (gen_random_uuid(), 'claims-taken', 'request', $1, 'org-1', now(), $2)",
        taker,
        json.dumps({"orgId": "org-1", "runId": str(taker), "override": None, "overridden": [], "taken": [taken]}),
    )
    await connection.execute("INSERT INTO respelled_claims VALUES ('org-1', 'c-1', ' c-1')")
    [entry] = (await explain(connection)).timeline
    assert (entry.event_type, entry.run_id, entry.other_run_ids) == ("claims-taken", taker, [slow])


async def test_entries_that_cannot_be_read_are_listed_and_say_nothing(connection: Connection) -> None:
    """A later version may log what this one cannot read; and PostgreSQL takes no U+0000 out of JSON."""
    run_id = await finish(connection)
    insert = (
        "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload) "
        "VALUES (gen_random_uuid(), $1, 'event', $2, 'org-1', now(), $3)"
    )
    await connection.execute(insert, "run-finished", run_id, '{"status": "undone"}')
    await connection.execute(insert, "run-purged", run_id, '{"claimIds": ["c-1"], "note": "\\u0000"}')
    await connection.execute(insert, "run-purged", run_id, '{"claimIds": 5, "overridden": [7], "taken": null}')
    await connection.execute(insert, "dead-letter-discarded", run_id, '["c-1"]')
    await connection.execute(insert, "run-purged", run_id, '{"claimIds": ["c-1"]}')
    assert told(await explain(connection)) == [
        ("run-finished", run_id, "exported"),
        ("run-finished", run_id, None),
        ("run-purged", run_id, None),
    ]
