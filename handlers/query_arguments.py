"""What queries take. A query that could mistake one parameter for another has a class here that names them.

A test compares the fields of each class with the names in the query's own text, so that two parameters of the same
type cannot change places unnoticed.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from schema.alerts import DoubleExportFoundBy
from schema.events import ClaimOutcome, RunStatus, RunTrigger

SEPARATOR: Final = "\x1f"
"""U+001F, the unit separator, joins many claim ids to one text, which asyncpg encodes far faster than an array.
Neither claim ids nor reasons may hold it (schema.fields)."""

Origin = Literal["event", "import", "request", "command"]
"""How an entry of the log reached us: an exporter published it, it was published from old records, a client requested
it, or an operator gave a command."""

PUBLISHED: Final = ("event", "import")
"""The origins of what has the form of an event. What was requested is logged as the request."""


class LogEntry(NamedTuple):
    """One row of the event log. A discarded dead letter may name no run, and a resolution is about a claim."""

    event_id: UUID
    origin: Origin
    run_id: UUID | None
    org_id: str | None
    occurred_at: datetime
    payload: str


class LoggedPayload(NamedTuple):
    """An event whose id the log holds already."""

    event_id: UUID
    payload: str


class CreatedRow(NamedTuple):
    """What a run-created says of its run."""

    run_id: UUID
    org_id: str
    created_at: datetime
    created_event_id: UUID
    created_digest: bytes
    triggered_by: str
    format: str
    target_system: str | None
    period_start: date | None
    period_end: date | None
    retry_of_run_id: UUID | None
    override_reason: str | None
    override_approved_by: str | None
    trigger: RunTrigger | None
    scope: str | None
    imported: bool


class FinishedRow(NamedTuple):
    """What a run-finished says of its run, all but the claims themselves."""

    run_id: UUID
    org_id: str
    status: RunStatus
    finished_at: datetime
    finished_event_id: UUID
    finished_digest: bytes
    error_code: str | None
    error_detail: str | None
    artifact_key: str | None
    artifact_sha256: str | None
    artifact_size_bytes: int | None
    external_ack_id: str | None
    claim_count: int
    skipped_count: int
    totals: str | None
    totals_disagree: bool
    has_conflict: bool
    imported: bool


class ClaimDetailsRow(NamedTuple):
    """What a run-finished says of one claim of its run, beside its outcome."""

    claim_id: str
    org_id: str
    run_id: UUID
    event_id: UUID
    voucher_id: str | None
    voucher_url: str | None
    amount: str | None
    currency: str | None
    skip_code: str | None


class RunClaimsSearch(NamedTuple):
    """A page of the claims of a run: those above a claim, at most so many, and at most so many bytes of their texts."""

    run_id: UUID
    org_id: str
    above_claim_id: str
    outcome: ClaimOutcome | None
    limit: int
    bytes_max: int


class ClaimGroup(NamedTuple):
    """Claims of a run that had one outcome, joined to one text; so are the reasons, where there are any."""

    run_id: UUID
    org_id: str
    outcome: ClaimOutcome
    claim_ids: str
    skip_reasons: str | None


class OrganisationClaims(NamedTuple):
    """Claims of an organisation, joined to one text."""

    org_id: str
    claim_ids: str


class JoinedClaims(NamedTuple):
    """Claims of an organisation, joined to one text, that a run has made double exports, and when."""

    org_id: str
    claim_ids: str
    joined_at: datetime


class LeaseWrite(NamedTuple):
    """Claims to lease to a run: those without a lease and those with one, each joined to one text.

    Without a `fencing_token` they get a new one.
    """

    org_id: str
    run_id: UUID
    free_claim_ids: str
    leased_claim_ids: str
    fencing_token: int | None
    ttl_s: int


class RunKey(NamedTuple):
    """A run, with its organisation."""

    run_id: UUID
    org_id: str


class RepeatedClaim(NamedTuple):
    """A claim that a run says it exported twice."""

    org_id: str
    claim_id: str
    run_id: UUID


class DoubleExportsSearch(NamedTuple):
    """A run, claims that it exports, joined to one text, and how many other runs of a claim to look at."""

    run_id: UUID
    org_id: str
    claim_ids: str
    runs_max: int


class NewAlert(NamedTuple):
    """A row of the outbox. Claims and earlier runs are the first of theirs, joined to one text."""

    event_id: UUID
    org_id: str
    run_id: UUID
    claim_count: int
    claim_ids: str
    earlier_run_ids: str
    found_by: DoubleExportFoundBy
    traceparent: str | None
    tracestate: str | None


class PostponedAlert(NamedTuple):
    """An alert that waits for so long before a worker may take it."""

    org_id: str
    event_id: UUID
    delay_s: float


class AlertKey(NamedTuple):
    """An alert, with its organisation."""

    org_id: str
    event_id: UUID


class DoubleExportsPage(NamedTuple):
    """Which double exports a page is of: those of an organisation above a claim, in the order of the claims."""

    org_id: str
    above_claim_id: str
    resolved: bool | None
    limit: int


class DoubleExportRunsSearch(NamedTuple):
    """Double exports whose runs are wanted: claims of an organisation, joined to one text.

    At most `counted_max` runs of a claim are looked at, and at most `shown_max` are named; None: all.
    """

    org_id: str
    claim_ids: str
    counted_max: int | None
    shown_max: int | None


class Resolution(NamedTuple):
    """Somebody has dealt with a double export: when, who, and what they say."""

    org_id: str
    claim_id: str
    resolved_at: datetime
    resolved_by: str
    note: str


class OverrideGrant(NamedTuple):
    """An override that a run was granted."""

    run_id: UUID
    org_id: str
    reason: str
    approved_by: str
    granted_at: datetime


class OverriddenClaim(NamedTuple):
    """A claim that an override is about, and a run that exported it before."""

    claim_id: str
    earlier_run_id: UUID


class ReversalGrant(NamedTuple):
    """Claims that a run was granted after exports of them had been taken back, and when."""

    run_id: UUID
    org_id: str
    granted_at: datetime


class ReversedClaim(NamedTuple):
    """A claim, and a run whose export of it was taken back."""

    claim_id: str
    reversed_run_id: UUID


class Reversal(NamedTuple):
    """Exports of a run that were taken back. `event_id` is that of the entry in the log."""

    org_id: str
    event_id: UUID
    run_id: UUID
    of_whole_run: bool
    reversed_at: datetime
    reason: str
    reversed_by: str
    approved_by: str
    external_reversal_id: str | None


class RunDeletion(NamedTuple):
    """A run to hide: when, by whom, and why."""

    run_id: UUID
    deleted_at: datetime
    deleted_by: str
    deleted_reason: str


class HistoryFilter(NamedTuple):
    """Which runs of an organisation a history is of. Both times are inclusive, and both ends of the period count."""

    org_id: str
    created_from: datetime
    created_to: datetime
    status: RunStatus | None
    target_system: str | None
    format: str | None
    triggered_by: str | None
    external_ack_id: str | None
    scope: str | None
    trigger: RunTrigger | None
    has_conflict: bool | None
    period_from: date | None
    period_to: date | None
    include_deleted: bool


class HistoryPage(NamedTuple):
    """Which part of a history a page is: runs below a position, newest first."""

    below_created_at: datetime
    below_run_id: UUID
    limit: int
    offset: int


class PeriodSearch(NamedTuple):
    """Runs of an organisation whose period has a day in common with this one, which includes both its ends."""

    org_id: str
    period_start: date
    period_end: date
    target_system: str | None
    scope: str | None
    future_start: datetime
    limit: int


class LastExportSearch(NamedTuple):
    """The last export of an organisation: to one system or to any, of one scope or of any."""

    org_id: str
    target_system: str | None
    scope: str | None
    future_start: datetime


class ClaimLogPage(NamedTuple):
    """Which part of what the log has of a claim: entries after one of them, or after none."""

    org_id: str
    claim_id: str
    after_event_id: UUID
    limit: int


class StaleRunsPage(NamedTuple):
    """Which stale runs a page is of: runs above a position, oldest first, of one organisation or of all."""

    older_than_s: int
    above_created_at: datetime
    above_run_id: UUID
    org_id: str | None
    limit: int


def column_arrays(rows: Iterable[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Turn rows into one array per column, which is what PostgreSQL's `unnest` takes. There must be a row.

    A column of nothing but None is an empty array: `unnest` fills it up with NULL, and asyncpg has less to encode. So
    one column at least must have a value.
    """
    columns = zip(*rows, strict=True)
    return [() if all(value is None for value in column) else column for column in columns]


def joined(texts: Iterable[str]) -> str:
    """Claim ids, or reasons, as the one text that queries take them in."""
    return SEPARATOR.join(texts)
