"""Every bound of the contract: the last value within it is accepted, the next one is refused with its name."""

import json
from typing import Any

import pytest

from schema import limits
from schema.decoding import InvalidBody, decode
from schema.events import RunCreated, RunFinished
from schema.fields import WireModel
from schema.requests import CheckClaims, DeleteExportRun, GetExportHistory, ListRunClaims
from tests.wire import Json, run_created, run_finished

NAME = "\u00e9" * 200
PROSE = "a\tb\r\n" * 400
SKIPPED = {"claimId": "c-1", "reason": "r"}
TOTAL = {"currency": "EUR", "claimCount": 1, "amount": "12.50"}
DETAILS = {"claimId": "c-1"}
ARTIFACT = {"key": "k", "sha256": "s", "sizeBytes": 1}

LEAST: dict[type[WireModel], Json] = {
    RunCreated: run_created(),
    RunFinished: run_finished(),
    GetExportHistory: {"orgId": "org-1"},
    CheckClaims: {"orgId": "org-1", "claimIds": ["c-1"]},
    ListRunClaims: {"runId": str(limits.INT64_MAX).zfill(32)},
    DeleteExportRun: {"runId": str(limits.INT64_MAX).zfill(32), "deletedBy": "bob", "reason": "a test"},
}

# For each bound: the model, the field as an error names it, the last value that is allowed, the first that is refused.
BOUNDS: list[tuple[type[WireModel], str, Any, Any]] = [
    (RunCreated, "orgId", NAME, NAME + "x"),
    (RunCreated, "triggeredBy", NAME, NAME + "x"),
    (RunCreated, "format", NAME, NAME + "x"),
    (RunCreated, "targetSystem", NAME, NAME + "x"),
    (RunCreated, "trigger", "api", "cron"),
    (RunCreated, "scope", NAME, NAME + "x"),
    (RunCreated, "override.reason", {"reason": PROSE, "approvedBy": "b"}, {"reason": "", "approvedBy": "b"}),
    (RunCreated, "periodEnd", "0001-01-01", "0000-12-31"),
    (RunCreated, "occurredAt", "0001-01-02T00:00:00Z", "0001-01-01T23:59:59Z"),
    (RunCreated, "occurredAt", "9999-12-30T00:00:00Z", "9999-12-30T00:00:01Z"),
    (RunFinished, "claimIds.0", [NAME], [NAME + "x"]),
    (RunFinished, "claimIds", ["c"] * 50_000, ["c"] * 50_001),
    (RunFinished, "claimIds", [], None),
    (RunFinished, "skippedClaims", [SKIPPED] * 50_000, [SKIPPED] * 50_001),
    (
        RunFinished,
        "skippedClaims.0.reason",
        [SKIPPED | {"reason": PROSE}],
        [SKIPPED | {"reason": PROSE + "x"}],
    ),
    (
        RunFinished,
        "skippedClaims.0.claimId",
        [SKIPPED | {"claimId": NAME}],
        [SKIPPED | {"claimId": NAME + "x"}],
    ),
    (RunFinished, "error.code", {"code": NAME, "detail": ""}, {"code": NAME + "x", "detail": ""}),
    (RunFinished, "artifact.key", ARTIFACT | {"key": "k" * 1_024}, ARTIFACT | {"key": "k" * 1_025}),
    (RunFinished, "artifact.sizeBytes", ARTIFACT | {"sizeBytes": 0}, ARTIFACT | {"sizeBytes": -1}),
    (RunFinished, "artifact.sizeBytes", ARTIFACT | {"sizeBytes": 2**63 - 1}, ARTIFACT | {"sizeBytes": 2**63}),
    (RunFinished, "externalAckId", NAME, NAME + "x"),
    (RunFinished, "skippedClaims.0.code", [SKIPPED | {"code": NAME}], [SKIPPED | {"code": NAME + "x"}]),
    (RunFinished, "totals", [TOTAL] * 200, [TOTAL] * 201),
    (RunFinished, "totals.0.currency", [TOTAL], [TOTAL | {"currency": "eur"}]),
    (RunFinished, "totals.0.claimCount", [TOTAL | {"claimCount": 0}], [TOTAL | {"claimCount": -1}]),
    (RunFinished, "totals.0.amount", [TOTAL | {"amount": "9" * 18}], [TOTAL | {"amount": "9" * 19}]),
    (RunFinished, "totals.0.amount", [TOTAL | {"amount": "-0.0001"}], [TOTAL | {"amount": "-0.00001"}]),
    (RunFinished, "totals.0.amount", [TOTAL | {"amount": "+1"}], [TOTAL | {"amount": "1e3"}]),
    (RunFinished, "totals.0.amount", [TOTAL | {"amount": "1.5"}], [TOTAL | {"amount": 1.5}]),
    (RunFinished, "claimDetails", [{"claimId": "c"}] * 100_000, [{"claimId": "c"}] * 100_001),
    (RunFinished, "claimDetails.0.claimId", [{"claimId": NAME}], [{"claimId": NAME + "x"}]),
    (RunFinished, "claimDetails.0.voucherId", [DETAILS | {"voucherId": NAME}], [DETAILS | {"voucherId": NAME + "x"}]),
    (
        RunFinished,
        "claimDetails.0.voucherUrl",
        [DETAILS | {"voucherUrl": "u" * 2_048}],
        [DETAILS | {"voucherUrl": "u" * 2_049}],
    ),
    (RunFinished, "claimDetails.0.amount", [DETAILS | {"amount": "-12.50"}], [DETAILS | {"amount": "12,50"}]),
    (RunFinished, "claimDetails.0.currency", [DETAILS | {"currency": "EUR"}], [DETAILS | {"currency": "EURO"}]),
    (ListRunClaims, "limit", 1, 0),
    (ListRunClaims, "limit", 10_000, 10_001),
    (CheckClaims, "claimIds", ["c"], []),
    (CheckClaims, "claimIds", ["c"] * 10_000, ["c"] * 10_001),
    (GetExportHistory, "targetSystem", NAME, NAME + "x"),
    (GetExportHistory, "limit", 1, 0),
    (GetExportHistory, "limit", 200, 201),
    (GetExportHistory, "offset", 0, -1),
    (GetExportHistory, "offset", 100_000, 100_001),
    (GetExportHistory, "cursor", "c" * 1_100, "c" * 1_101),
    (DeleteExportRun, "deletedBy", NAME, NAME + "x"),
    (DeleteExportRun, "reason", PROSE, PROSE + "x"),
]


def body_of(fields: Json) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("model", "field", "allowed", "refused"),
    BOUNDS,
    ids=[f"{model.__name__}-{field}" for model, field, *_ in BOUNDS],
)
def test_a_bound_has_the_value_of_the_contract(model: type[WireModel], field: str, allowed: Any, refused: Any) -> None:
    name = field.partition(".")[0]
    decode(model, body_of(LEAST[model] | {name: allowed}))
    with pytest.raises(InvalidBody) as raised:
        decode(model, body_of(LEAST[model] | {name: refused}))
    assert [detail.field for detail in raised.value.details] == [field]


def test_a_body_has_at_most_4_mib() -> None:
    """White space counts, because the bound is checked before anything is parsed."""
    body = body_of(run_created())
    decode(RunCreated, body.ljust(4 * 1024 * 1024))
    with pytest.raises(InvalidBody, match=r"^body: is 4,194,305 bytes long, at most 4,194,304 are allowed$"):
        decode(RunCreated, body.ljust(4 * 1024 * 1024 + 1))


def test_an_error_detail_may_have_any_length() -> None:
    detail = "d" * 1_000_000
    event = decode(RunFinished, body_of(run_finished(error={"code": "E", "detail": detail})))
    assert event.error is not None
    assert event.error.detail == detail


def test_a_body_has_room_for_the_longest_lists() -> None:
    """It holds 50,000 claim ids of 38 characters, or 10,000 claim ids of the greatest length."""
    claim_ids = [f"claim-{number:032}" for number in range(limits.EVENT_CLAIMS_MAX)]
    assert len(decode(RunFinished, body_of(run_finished(claimIds=claim_ids))).claim_ids) == len(claim_ids)
    longest = [f"{number:0200}" for number in range(limits.CHECK_CLAIMS_MAX)]
    assert len(decode(CheckClaims, body_of({"orgId": "org-1", "claimIds": longest})).claim_ids) == len(longest)


def test_a_page_of_history_has_20_runs_by_default() -> None:
    assert decode(GetExportHistory, body_of({"orgId": "org-1"})).limit == 20
