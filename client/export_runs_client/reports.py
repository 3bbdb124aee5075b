"""The events of a run: what is told of it when it starts, and when it ends, however it ends."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

from pydantic import Field

from .schema.events import FinishedStatus, RunFinished, RunStatus
from .schema.fields import (
    Artifact,
    ClaimDetails,
    ControlTotal,
    Name,
    RunError,
    SkippedClaim,
    WireModel,
    shortened,
)
from .schema.limits import BODY_BYTES_MAX, TEXT_CHARS_MAX
from .spool import ClaimRecord, Outcome, RunRecord

ERROR_DETAIL_CHARS_MAX: Final = 10_000
"""The text of an exception, cut."""

DOUBTS_NAMED_MAX: Final = 100
"""Claims in doubt that the text of an error names; the first."""

IN_DOUBT: Final = "IN_DOUBT"
"""The `code` of the error where some of the `claimIds` may not have gone out."""

EXPORTER_DIED: Final = "EXPORTER_DIED"
"""The `code` of the error where a process died before it ended its run, and no claim is in doubt."""

log = logging.getLogger("export_runs_client")


class EndFacts(WireModel):
    """What else an exporter tells at the end of a run."""

    artifact: Artifact | None = None
    external_ack_id: Name | None = None
    totals: list[ControlTotal] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run has ended. `complete`: nothing that it was asked to export is missing."""

    run_id: UUID
    org_id: str
    occurred_at: datetime
    claims: Collection[ClaimRecord]
    complete: bool
    error: RunError | None = None
    facts: EndFacts = field(default_factory=EndFacts)
    refused: Sequence[SkippedClaim] = ()
    """The claims that were not granted."""


def end_of_dead(run: RunRecord) -> RunEnd:
    """The end of a run whose process has died. It happened when the process last wrote something down."""
    return RunEnd(
        run_id=run.run_id,
        org_id=run.org_id,
        occurred_at=run.changed_at,
        claims=run.claims,
        complete=False,
        error=RunError(code=EXPORTER_DIED, detail="the process died before it ended the run"),
        facts=EndFacts.model_validate_json(run.facts),
    )


def run_finished(end: RunEnd) -> RunFinished:
    """The event that tells how a run ended.

    A claim in doubt counts as exported: to pay it again would be worse. The error says which those are. Where all
    would not fit into a body, details of claims and claims that were skipped are left out, never what was exported.
    """
    out = [claim for claim in end.claims if claim.outcome is not Outcome.SKIPPED]
    details = [ClaimDetails.model_validate_json(claim.details) for claim in out if claim.details]
    skipped = [SkippedClaim.model_validate_json(c.details) for c in end.claims if c.outcome is Outcome.SKIPPED]
    doubts = [claim.claim_id for claim in out if claim.outcome is Outcome.IN_DOUBT]
    event = RunFinished(
        event_id=uuid4(),
        schema_version=1,
        occurred_at=end.occurred_at,
        run_id=end.run_id,
        org_id=end.org_id,
        status=_status(end.complete and not doubts, bool(out)),
        claim_ids=[claim.claim_id for claim in out],
        skipped_claims=[*skipped, *end.refused],
        error=_with_doubts(end.error, doubts),
        artifact=end.facts.artifact,
        external_ack_id=end.facts.external_ack_id,
        totals=end.facts.totals,
        claim_details=details,
    )
    for left_out in ("claim_details", "skipped_claims"):
        if len(encoded(event)) > BODY_BYTES_MAX:
            log.warning("run %s: %s are left out: with them the event would be too large", end.run_id, left_out)
            event = event.model_copy(update={left_out: []})
    return event


def error_of(exception: BaseException) -> RunError:
    """An exception, as the error of a run. One that cannot be told hides no payment."""
    name = type(exception).__name__
    code = shortened(name, TEXT_CHARS_MAX) if name.isidentifier() else Exception.__name__
    try:
        text = str(exception)
    except Exception as error:  # noqa: BLE001 -- the exporter's code
        text = f"its text cannot be had: {type(error).__name__}"
    return RunError(code=code, detail=_detail(text))


def encoded(event: WireModel) -> bytes:
    """The body of an event."""
    return event.model_dump_json(exclude_none=True).encode()


def now() -> datetime:
    """The time of an event that happens now."""
    return datetime.now(UTC)


def _status(complete: bool, something_is_out: bool) -> FinishedStatus:
    if complete:
        return RunStatus.COMPLETED
    return RunStatus.PARTIAL if something_is_out else RunStatus.FAILED


def _with_doubts(error: RunError | None, doubts: Sequence[str]) -> RunError | None:
    if not doubts:
        return error
    named = ", ".join(doubts[:DOUBTS_NAMED_MAX])
    detail = f"{len(doubts)} of the claims may not have gone out: {named}"
    return RunError(code=IN_DOUBT, detail=_detail(f"{detail}. {error.code}: {error.detail}" if error else detail))


def _detail(text: str) -> str:
    # The contract has no NUL, and JSON no lone surrogates.
    clean = text.replace("\0", "").encode(errors="replace").decode()
    return shortened(clean, ERROR_DETAIL_CHARS_MAX)
