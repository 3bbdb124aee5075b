"""A database in which one claim has several spellings is brought to one; and SQL has the same idea of it as Python."""

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

import sql
from handlers.alerts import take_alerts
from handlers.double_exports import list_double_exports
from handlers.errors import RequestRefused
from handlers.reservations import reserve_claims
from handlers.verification import verify
from handlers.writes import update_export_run_status
from schema.claim_ids import canonical_claim_id, spelling_of
from schema.events import RunFinished
from schema.requests import ListDoubleExports, ReserveClaims, UpdateExportRunStatus
from schema.results import DoubleExport
from sql.connection import Connection
from tests.conftest import connected, database_settings
from tests.integration.requests import check, decoded
from tests.storing import created_event, finished_event, store_created, store_finished
from worker.database.migrations import migrate

[VERSION] = [each.version for each in sql.migrations() if each.name == "canonical_claim_ids"]

A, B, C = (UUID(int=number) for number in range(1, 4))

OVERRIDE = {"reason": "r", "approvedBy": "carol"}


@dataclass
class Before:
    """A database of the version before, for which the spelling of an id was the id."""

    connection: Connection
    url: str

    async def export(self, run_id: UUID, *claim_ids: str, **fields: Any) -> RunFinished:
        """A run ends, as the version before stored it."""
        event = finished_event(runId=str(run_id), claimIds=claim_ids, **fields)
        skipped = [each.model_copy(update={"claim_id": spelling_of(each.claim_id)}) for each in event.skipped_claims]
        former = event.model_copy(update={"claim_ids": list(claim_ids), "skipped_claims": skipped})
        await store_finished(self.connection, [former.with_payload(event.payload)])
        return event

    async def reserve(self, run_id: UUID, claim_id: str, **fields: Any) -> None:
        request = decoded(ReserveClaims, orgId="org-1", runId=run_id, claimIds=[claim_id], **fields)
        reserved = await reserve_claims(self.connection, request.model_copy(update={"claim_ids": [claim_id]}))
        assert reserved.granted == [claim_id]

    async def migrate(self, repeat: str | None = None) -> list[str]:
        said: list[str] = []
        await migrate(database_settings(self.url), sql.migrations()[:VERSION], said.append, repeat=repeat)
        return said

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(query)]

    async def double_exports(self) -> list[DoubleExport]:
        return (await list_double_exports(self.connection, decoded(ListDoubleExports, orgId="org-1"))).double_exports


@pytest.fixture
async def before(empty_url: str) -> AsyncIterator[Before]:
    await migrate(database_settings(empty_url), sql.migrations()[: VERSION - 1])
    connection = await connected(empty_url)
    # The code of today, which stores what was there before, writes to columns and tables of later migrations, too.
    for later in sql.migrations()[VERSION:]:
        for statement in later.statements:
            await connection.execute(statement)
    yield Before(connection, empty_url)
    await connection.close()


CLAIMS = "SELECT claim_id, run_id, outcome::text, skip_reason FROM export_run_claims ORDER BY claim_id, run_id"


async def test_sql_and_python_have_the_same_canonical_form(connection: Connection) -> None:
    """Over all code points that are not private or unassigned for good, alone and between others.

    A PostgreSQL that knows a newer Unicode fails here if NORMALIZED_SINCE_UNICODE_15 lacks one of its characters.
    """
    numbers = (*range(1, 0xD800), *range(0xE000, 0x32000), *range(0xE0000, 0xE1000), sys.maxunicode)
    texts = [text for number in numbers for text in (f" {chr(number)} ", f"x\u0301{chr(number)}\u0323e{chr(number)}")]
    for start in range(0, len(texts), 100_000):
        part = texts[start : start + 100_000]
        rows = await connection.fetch("SELECT canonical_claim_id(text) FROM unnest($1::text[]) AS text", part)
        differing = [text for text, row in zip(part, rows, strict=True) if row[0] != canonical_claim_id(text)]
        assert differing == []


async def test_rows_that_become_one_are_merged(before: Before) -> None:
    skipped = [{"claimId": "\u200bs", "reason": "y"}, {"claimId": "s", "reason": "x"}, {"claimId": "a", "reason": "z"}]
    await before.export(A, "a ", "cafe\u0301", "007", "7", skippedClaims=skipped)
    await before.export(B, "b\u00a0", status="failed")
    said = await before.migrate()
    assert await before.rows(CLAIMS) == [
        ("007", A, "exported", None),
        ("7", A, "exported", None),
        ("a", A, "exported", "z"),
        ("b", B, "attempted", None),
        ("caf\u00e9", A, "exported", None),
        ("s", A, "skipped", "x"),
    ]
    counts = await before.rows("SELECT claim_count, skipped_count, has_conflict FROM export_runs ORDER BY run_id")
    assert counts == [(4, 1, False), (1, 0, False)]
    assert await before.rows("SELECT claim_id, spelling, merged_at IS NOT NULL FROM respelled_claims ORDER BY 1") == [
        ("a", "a ", True),
        ("b", "b\u00a0", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("s", "\u200bs", True),
    ]
    assert "4 spellings of claim ids are brought to their canonical form; the table respelled_claims has them" in said
    assert await before.double_exports() == []
    assert [each.claim_id for each in (await check(before.connection, "a\u200b", " b")).exported] == ["a\u200b"]


async def test_runs_that_exported_one_claim_in_two_spellings_are_a_double_export(before: Before) -> None:
    for run_id, spelling in ((A, "a"), (B, "a "), (C, "c\u200b")):
        await before.export(run_id, spelling, "other" if run_id == C else "own " + spelling)
    assert await before.double_exports() == []
    said = await before.migrate()
    assert "2 claims that were exported in several spellings are double exports" in said
    found = await before.double_exports()
    assert [(each.claim_id, {run.run_id for run in each.runs}, each.resolved_at) for each in found] == [
        ("a", {A, B}, None),
        ("own a", {A, B}, None),
    ]
    [taken] = await take_alerts(before.connection, ["org-1"], 10, 60)
    assert (taken.alert.run_id, taken.alert.earlier_run_ids, taken.alert.claim_ids) in (
        (B, [A], ["a", "own a"]),
        (A, [B], ["a", "own a"]),
    )


async def test_a_run_named_a_claim_twice_only_if_one_event_did(before: Before) -> None:
    await before.export(A, "a", "a ")
    await before.export(B, "b")
    await before.export(B, "b ")
    await before.migrate()
    [found] = await before.double_exports()
    assert (found.claim_id, found.repeated_in_runs) == ("a", [A])


async def test_a_log_entry_that_postgresql_cannot_read_is_taken_for_a_repetition(before: Before) -> None:
    await before.export(A, "a", "a ", unknown="\0")
    await before.migrate()
    assert [each.repeated_in_runs for each in await before.double_exports()] == [[A]]


async def test_an_override_in_another_spelling_still_mutes(before: Before) -> None:
    await before.export(A, "a ")
    await before.reserve(B, "a ", override=OVERRIDE)
    await before.export(B, "a ", "a\u200b")
    await before.migrate()
    assert await before.rows("SELECT claim_id, run_id, earlier_run_id FROM claim_overrides") == [("a", B, A)]
    [found] = await before.double_exports()
    assert (found.repeated_in_runs, [run.run_id for run in found.runs]) == ([B], [B])


async def test_resolutions_are_kept_unless_a_run_joins(before: Before) -> None:
    for run_id, claim_ids in ((A, ["a ", "b "]), (B, ["a ", "b "]), (C, ["b"])):
        await before.export(run_id, *claim_ids)
    await before.connection.execute(
        "UPDATE double_exported_claims SET resolved_at = now(), resolved_by = 'bob', note = 'n'"
    )
    await before.migrate()
    assert [(each.claim_id, each.resolved_by, each.run_count) for each in await before.double_exports()] == [
        ("a", "bob", 2),
        ("b", None, 3),
    ]


async def test_of_two_leases_the_one_that_ends_last_stays(before: Before) -> None:
    await before.reserve(A, "a", ttlSeconds=100)
    await before.reserve(B, "a ", ttlSeconds=1000)
    await before.reserve(C, "c ", ttlSeconds=100)
    tokens = dict(await before.rows("SELECT run_id, fencing_token FROM claim_leases"))
    said = await before.migrate()
    leases = await before.rows("SELECT claim_id, run_id, fencing_token FROM claim_leases ORDER BY claim_id")
    assert leases == [("a", B, tokens[B]), ("c", C, tokens[C])]
    assert [line for line in said if f"the lease of run {A} is dropped" in line]
    assert [each.run_id for each in (await check(before.connection, "\u200ba")).reserved] == [B]


@pytest.mark.parametrize("spelling", ["a ", "a", "\u200ba"])
async def test_an_end_that_was_told_before_is_told_again_without_conflict(before: Before, spelling: str) -> None:
    """By the same event, by another one, and by a request: in the spelling of then, or in another."""
    event = await before.export(A, "a ", occurredAt="2026-01-31T09:30:00Z")
    await before.migrate()
    await store_finished(before.connection, [event])
    await store_finished(
        before.connection,
        [
            finished_event(
                eventId=str(event.event_id), runId=str(A), claimIds=[spelling], occurredAt="2026-01-31T09:30:00Z"
            )
        ],
    )
    await update_export_run_status(
        before.connection, decoded(UpdateExportRunStatus, runId=A, status="completed", claimIds=[spelling])
    )
    await store_finished(before.connection, [finished_event(runId=str(A), claimIds=[spelling])])
    assert await before.rows("SELECT has_conflict, claim_count FROM export_runs") == [(False, 1)]


@pytest.mark.parametrize("occurred_at", ["2020-01-01T00:00:00Z", "2026-06-01T00:00:00Z"])
async def test_an_end_that_contradicts_one_of_before_is_a_conflict(before: Before, occurred_at: str) -> None:
    """Whether it wins or loses."""
    await before.export(A, "a ", occurredAt="2026-01-31T09:30:00Z")
    await before.migrate()
    await store_finished(before.connection, [finished_event(runId=str(A), claimIds=["a", "b"], occurredAt=occurred_at)])
    assert await before.rows("SELECT has_conflict, claim_count FROM export_runs") == [(True, 2)]
    assert await before.rows("SELECT finished_digest = '' FROM export_runs") == [(False,)]


async def differing_columns(url: str) -> set[str]:
    """What a verification finds."""
    connection = await connected(url)
    try:
        result = await verify(connection, lambda done, total: None)
    finally:
        await connection.close()
    return {column for difference in result.differences for column in difference.stored or ()}


async def test_what_was_brought_along_is_what_the_log_says(before: Before) -> None:
    """The digests that are made anew later, and the conflicts that are found then, are no damage."""
    await before.export(A, "a ", "b", "c\u200b")
    await before.export(B, "a", "b ")
    await before.export(C, "d", "d ")
    for claim_id in ("e ", "e", "f "):
        await before.export(UUID(int=9), claim_id)
    await before.migrate()
    assert await before.rows("SELECT count(*) FROM export_runs WHERE finished_digest = ''") == [(4,)]
    assert await differing_columns(before.url) == set()
    await before.connection.execute("UPDATE export_runs SET has_conflict = NOT has_conflict, finished_digest = 'x'")
    assert await differing_columns(before.url) == {"has_conflict", "finished_digest"}


async def test_ends_that_differ_only_in_spelling_are_no_conflict_any_more(before: Before) -> None:
    """They were one to the version before. The next event of the run takes the mark away, as the log says."""
    await before.export(A, "a ", "b")
    await before.export(A, "b", "a")
    assert await before.rows("SELECT has_conflict FROM export_runs") == [(True,)]
    await before.migrate()
    await store_finished(before.connection, [finished_event(runId=str(A), claimIds=["a\u200b", "b"])])
    assert await before.rows("SELECT has_conflict FROM export_runs") == [(False,)]
    assert await differing_columns(before.url) == set()


@pytest.mark.parametrize("of", ["two starts", "an end that cannot be read", "the details of the next end"])
async def test_what_else_contradicts_stays_a_conflict(before: Before, of: str) -> None:
    """The start of a run counts, too, and where the log cannot be read the mark stays."""
    next_end: dict[str, Any] = {}
    await before.export(A, "a ")
    match of:
        case "two starts":
            for triggered_by in ("alice", "bob"):
                await store_created(before.connection, [created_event(runId=str(A), triggeredBy=triggered_by)])
        case "an end that cannot be read":
            await before.export(A, "a")
        case _:
            next_end = {"claimDetails": [{"claimId": "x", "amount": "1"}]}
    if of == "an end that cannot be read":
        await before.connection.execute("SET session_replication_role = replica")
        await before.connection.execute("UPDATE export_run_events SET payload = '{}' WHERE payload::text LIKE '%a %'")
        await before.connection.execute("RESET session_replication_role")
    await before.migrate()
    await store_finished(before.connection, [finished_event(runId=str(A), claimIds=["a"], **next_end)])
    assert await before.rows("SELECT has_conflict FROM export_runs") == [(True,)]
    if of != "an end that cannot be read":
        assert await differing_columns(before.url) == set()


async def test_a_request_that_contradicts_an_end_of_before_is_refused(before: Before) -> None:
    await before.export(A, "a ")
    await before.migrate()
    request = decoded(UpdateExportRunStatus, runId=A, status="completed", claimIds=["b"])
    with pytest.raises(RequestRefused):
        await update_export_run_status(before.connection, request)


async def test_what_a_former_worker_stores_afterwards_is_brought_along_by_a_repetition(before: Before) -> None:
    await before.export(A, "a ")
    await before.migrate()
    await before.export(B, "a ", "b\u200b")
    assert len(await before.double_exports()) == 0
    said = await before.migrate(repeat="canonical_claim_ids")
    assert [row[:2] for row in await before.rows(CLAIMS)] == [("a", A), ("a", B), ("b", B)]
    assert [each.claim_id for each in await before.double_exports()] == ["a"]
    assert "1 claims that were exported in several spellings are double exports" in said
    assert await before.migrate(repeat="canonical_claim_ids") == [
        f"repeating migration {VERSION:04} (canonical_claim_ids)"
    ]


async def test_more_claims_than_one_transaction_takes(before: Before) -> None:
    await before.export(uuid4(), *(f"c-{number} " for number in range(250)))
    await before.migrate()
    assert await before.rows("SELECT count(*), count(*) FILTER (WHERE claim_id LIKE '% ') FROM export_run_claims") == [
        (250, 0)
    ]


async def test_an_id_without_a_canonical_form_that_can_be_stored_stays_as_it_is(before: Before) -> None:
    too_long = "\u0958" * 200
    await before.export(A, "a")
    await before.connection.execute("UPDATE export_run_claims SET claim_id = $1", too_long)
    await before.migrate()
    assert [row[0] for row in await before.rows(CLAIMS)] == [too_long]
