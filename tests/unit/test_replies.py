"""The reply envelope: the fast writer writes the same bytes as the models, and the client can read them."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import ValidationError

from schema.errors import ErrorCode, FieldError
from schema.events import ClaimOutcome, RunStatus, RunTrigger
from schema.fields import WireModel
from schema.operations import OPERATIONS
from schema.replies import (
    ErrorBody,
    ErrorReply,
    OkReply,
    decode_reply,
    encode_error_reply,
    encode_ok_reply,
)
from schema.results import (
    CheckedClaims,
    ClaimConflict,
    ConflictReason,
    DoubleExports,
    ExportedBy,
    ExportedClaim,
    ExportHistory,
    ExportRun,
    ExportRunOfClaim,
    ExportRunWithClaims,
    FoundRuns,
    PendingEvents,
    ReleasedClaims,
    ReservedClaim,
    ReservedClaims,
    StaleRuns,
)

NOW = datetime(2026, 1, 31, 9, 30, 0, 123456, tzinfo=UTC)
RUN = ExportRun(
    run_id=UUID(int=1),
    org_id='org "\u00e9\U0001f600',
    triggered_by="alice",
    format="csv",
    target_system=None,
    trigger=RunTrigger.API,
    scope=None,
    period_start=NOW.date(),
    period_end=None,
    status=RunStatus.COMPLETED,
    created_at=NOW,
    finished_at=NOW.replace(microsecond=0),
    claim_count=2,
    skipped_count=0,
    error=None,
    artifact=None,
    external_ack_id=None,
    retry_of_run_id=None,
    override=None,
    deleted_at=None,
    deleted_by=None,
    has_conflict=False,
)
RESULTS: list[WireModel] = [
    RUN,
    ExportRunWithClaims(**RUN.__dict__, claim_ids=["c-1", "c-2"], skipped_claims=[], claim_overrides=[]),
    FoundRuns(runs=[ExportRunOfClaim(**RUN.__dict__, claim_outcome=ClaimOutcome.EXPORTED)], truncated=False),
    ExportHistory(runs=[RUN], next_cursor="abc", total=None),
    StaleRuns(runs=[], next_cursor=None),
    DoubleExports(double_exports=[], next_cursor=None),
    ReleasedClaims(released_count=3),
    CheckedClaims.model_construct(  # as the handler makes it, without validation
        exported=[ExportedClaim("c-1", [ExportedBy(UUID(int=1), RunStatus.PARTIAL, NOW)])],
        reserved=[ReservedClaim("c-2", UUID(int=2), NOW)],
        unexported=["c-3"],
        as_of=NOW,
        pending_events=PendingEvents(count=3, as_of=NOW),
    ),
    ReservedClaims.model_construct(
        granted=["c-1"],
        conflicts=[ClaimConflict("c-2", ConflictReason.EXPIRED, UUID(int=2), NOW)],
        expires_at=NOW,
        fencing_token=7,
    ),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_the_fast_writer_writes_the_same_bytes_as_the_model(result: WireModel) -> None:
    body = encode_ok_reply(result)
    envelope = OkReply[type(result)](result=result)  # type: ignore[misc, operator]
    assert body == envelope.model_dump_json().encode()
    assert decode_reply(type(result), body) == envelope


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_reply_can_be_written_and_read(code: ErrorCode) -> None:
    detail = FieldError(field="claimIds.3", message='must not hold "\u00e9"')
    body = encode_error_reply(code, "the request is not valid", detail)
    error = ErrorBody(
        code=code, message="the request is not valid", retryable=code is ErrorCode.UNAVAILABLE, details=[detail]
    )
    assert decode_reply(ExportRun, body) == ErrorReply(error=error)
    assert json.loads(body) == {
        "ok": False,
        "error": {
            "code": code.value,
            "message": "the request is not valid",
            "retryable": code is ErrorCode.UNAVAILABLE,
            "details": [{"field": "claimIds.3", "message": 'must not hold "\u00e9"'}],
        },
    }


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_result_has_an_envelope(operation: object) -> None:
    result: type[WireModel] = operation.result  # type: ignore[attr-defined]
    error = decode_reply(result, encode_error_reply(ErrorCode.INTERNAL, "the service failed"))
    assert isinstance(error, ErrorReply)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"ok":true}',
        b'{"ok":false}',
        b'{"ok":"true","result":{"releasedCount":1}}',
        b'{"ok":null,"result":{"releasedCount":1}}',
        b'{"ok":false,"result":{"releasedCount":1}}',
        b'{"ok":true,"error":{"code":"INTERNAL","message":"m","retryable":false,"details":[]}}',
        b'{"ok":true,"result":{"releasedCount":"1"}}',
        b'{"result":{"releasedCount":1}}',
    ],
)
def test_a_body_that_is_no_reply_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationError):
        decode_reply(ReleasedClaims, body)


def test_the_order_of_members_and_white_space_make_no_difference() -> None:
    reply = decode_reply(ReleasedClaims, b' { "result": {"releasedCount": 1}, "ok": true } ')
    assert reply == OkReply(result=ReleasedClaims(released_count=1))
