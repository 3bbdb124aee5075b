"""Every bound of the contract: its last allowed value is taken, the next one refused by its name."""

import json
from typing import Any

import pytest

from schema import limits
from schema.decoding import InvalidBody, decode
from schema.events import RunCreated, RunFinished
from schema.fields import WireModel
from schema.requests import CheckClaims, DeleteExportRun, GetExportHistory
from tests.wire import Json, run_created, run_finished

NAME = "\u00e9" * 200
PROSE = "a\tb\r\n" * 400
SKIPPED = {"claimId": "c-1", "reason": "r"}
ARTIFACT = {"key": "k", "sha256": "s", "sizeBytes": 1}

LEAST: dict[type[WireModel], Json] = {
    RunCreated: run_created(),
    RunFinished: run_finished(),
    GetExportHistory: {"orgId": "org-1"},
    CheckClaims: {"orgId": "org-1", "claimIds": ["c-1"]},
    DeleteExportRun: {"runId": str(limits.INT64_MAX).zfill(32), "deletedBy": "bob", "reason": "a test"},
}

# A model, the field as an error names it, its last allowed value, the first that is refused.
BOUNDS: list[tuple[type[WireModel], str, Any, Any]] = [
    (RunCreated, "orgId", NAME, NAME + "x"),
    (RunCreated, "triggeredBy", NAME, NAME + "x"),
    (RunCreated, "format", NAME, NAME + "x"),
    (RunCreated, "targetSystem", NAME, NAME + "x"),
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
    (CheckClaims, "claimIds", ["c"], []),
    (CheckClaims, "claimIds", ["c"] * 10_000, ["c"] * 10_001),
    (GetExportHistory, "targetSystem", NAME, NAME + "x"),
    (GetExportHistory, "limit", 1, 0),
    (GetExportHistory, "limit", 200, 201),
    (GetExportHistory, "offset", 0, -1),
    (GetExportHistory, "offset", 100_000, 100_001),
    (GetExportHistory, "cursor", "c" * 200, "c" * 201),
    (DeleteExportRun, "deletedBy", NAME, NAME + "x"),
    (DeleteExportRun, "reason", PROSE, PROSE + "x"),
]


def encoded(fields: Json) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("model", "field", "allowed", "refused"),
    BOUNDS,
    ids=[f"{model.__name__}-{field}" for model, field, *_ in BOUNDS],
)
def test_a_bound_is_where_the_contract_says(model: type[WireModel], field: str, allowed: Any, refused: Any) -> None:
    name = field.partition(".")[0]
    decode(model, encoded(LEAST[model] | {name: allowed}))
    with pytest.raises(InvalidBody) as raised:
        decode(model, encoded(LEAST[model] | {name: refused}))
    assert [detail.field for detail in raised.value.details] == [field]


def test_a_body_has_at_most_4_mib() -> None:
    """White space counts: the bound is checked before anything is parsed."""
    body = encoded(run_created())
    decode(RunCreated, body.ljust(4 * 1024 * 1024))
    with pytest.raises(InvalidBody, match=r"^body: is 4,194,305 bytes long, at most 4,194,304 are allowed$"):
        decode(RunCreated, body.ljust(4 * 1024 * 1024 + 1))


def test_an_error_detail_has_any_length() -> None:
    detail = "d" * 1_000_000
    event = decode(RunFinished, encoded(run_finished(error={"code": "E", "detail": detail})))
    assert event.error is not None
    assert event.error.detail == detail


def test_the_longest_lists_fit_a_body() -> None:
    """50,000 claim ids of the usual length, and 10,000 of the greatest."""
    claim_ids = [f"claim-{number:032}" for number in range(limits.EVENT_CLAIMS_MAX)]
    assert len(decode(RunFinished, encoded(run_finished(claimIds=claim_ids))).claim_ids) == len(claim_ids)
    longest = [f"{number:0200}" for number in range(limits.CHECK_CLAIMS_MAX)]
    assert len(decode(CheckClaims, encoded({"orgId": "org-1", "claimIds": longest})).claim_ids) == len(longest)


def test_history_pages_have_20_runs_unless_told() -> None:
    assert decode(GetExportHistory, encoded({"orgId": "org-1"})).limit == 20
