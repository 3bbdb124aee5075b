"""Bytes are decoded to a model, or refused with errors that name the field as the contract does."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema import limits
from schema.decoding import InvalidBody, decode
from schema.events import RunCreated, RunFinished
from schema.fields import WireModel
from schema.requests import CheckClaims, CreateExportRun, DeleteExportRun, GetExportHistory
from tests.wire import Json, run_created, run_finished

BLANK = "must not be blank or hold control characters"
BLANK_PROSE = "must not be blank or hold control characters other than tabs and line ends"
NO_TIME = "must be an RFC 3339 time with an offset, such as 2026-01-31T09:30:00Z"
NO_LEAP = "has a second 60 where no leap second can be: only at 23:59 UTC on the last day of a month"
OUT_OF_RANGE = "must be between 0001-01-02 and 9999-12-30"
NO_DATE = "must be a date such as 2026-01-31"
WRONG_VERSION = "must be 1, the only version there is"

VALID: dict[type[WireModel], Json] = {RunCreated: run_created(), RunFinished: run_finished()}


def errors(model: type[WireModel], body: Json | bytes) -> dict[str, str]:
    """The errors of a body, by field. There must be one."""
    with pytest.raises(InvalidBody) as refused:
        decode(model, body if isinstance(body, bytes) else json.dumps(body).encode())
    return {detail.field: detail.message for detail in refused.value.details}


def with_unknown(value: str) -> bytes:
    """A valid run-created with an unknown field that has this JSON text as its value."""
    return json.dumps(run_created()).encode()[:-1] + b', "unknown": ' + value.encode() + b"}"


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2016-12-31t15:59:60.25-08:00", datetime(2017, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC)),
        ("2015-07-01T05:29:60+05:30", datetime(2015, 7, 1, tzinfo=UTC)),
        ("2016-02-29T23:59:60.123456789z", datetime(2016, 3, 1, 0, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_a_leap_second_is_the_second_after_it(text: str, time: datetime) -> None:
    event = decode(RunCreated, json.dumps(run_created(occurredAt=text)).encode())
    assert event.occurred_at == time
    assert text in event.payload


def test_a_decoded_event_keeps_its_text() -> None:
    fields = run_created(
        occurredAt="2026-02-01T08:00:00.25+02:00", targetSystem="ledger", unknown={"kept": [1, "\u00e9"]}
    )
    body = json.dumps(fields, indent=3, ensure_ascii=False).encode()
    event = decode(RunCreated, body)
    assert (event.org_id, event.triggered_by, event.target_system) == ("org-1", "alice", "ledger")
    assert event.occurred_at == datetime(2026, 2, 1, 6, 0, 0, 250_000, tzinfo=UTC)
    assert event.occurred_at.tzinfo is UTC
    assert event.payload == body.decode()
    assert not hasattr(event, "unknown")


def test_a_model_that_was_not_decoded_has_no_payload() -> None:
    assert CheckClaims(org_id="org-1", claim_ids=["c-1"]).payload == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"{", "is not JSON", id="truncated"),
        pytest.param(b"{} {}", "is not JSON", id="two objects"),
        pytest.param(b'{"orgId": "\xe9"}', "is not JSON", id="latin-1"),
        pytest.param("{}".encode("utf-16"), "is not JSON", id="utf-16"),
        pytest.param(b"\xef\xbb\xbf{}", "is not JSON", id="byte order mark"),
        pytest.param(b"\x1f\x8b\x08\x00", "is compressed with gzip, and must be plain JSON", id="gzip"),
        pytest.param(b"{'orgId': 1}", "is not JSON", id="single quotes"),
        pytest.param(b"[" * 100_000, "is not JSON", id="nested too deep"),
        pytest.param(b"[]", "Input should be an object", id="array"),
        pytest.param(b"null", "Input should be an object", id="null"),
        pytest.param(b'"text"', "Input should be an object", id="text"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, message: str) -> None:
    [(field, error)] = errors(RunCreated, body).items()
    assert field == "body"
    assert error.startswith(message)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "[[NaN]]", '"\\ud800"', '{"a": Infinity}'])
def test_values_that_are_not_json_by_rfc_8259_are_refused_in_unknown_fields_too(value: str) -> None:
    assert errors(RunCreated, with_unknown(value))["body"].startswith("is not JSON")


@pytest.mark.parametrize(
    "value", ['"NaN and Infinity"', '"\\u0000"', "1e200000", '"\\ud83d\\ude00"', "[" * 150 + "]" * 150]
)
def test_any_json_is_allowed_in_unknown_fields(value: str) -> None:
    assert decode(RunCreated, with_unknown(value)).org_id == "org-1"


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        pytest.param(RunCreated, {"orgId": ""}, {"orgId": "at least 1 character"}, id="empty name"),
        pytest.param(RunCreated, {"orgId": " \t"}, {"orgId": BLANK}, id="blank name"),
        pytest.param(RunCreated, {"orgId": "\u3000"}, {"orgId": BLANK}, id="wide blank name"),
        pytest.param(RunCreated, {"orgId": "a\x00"}, {"orgId": BLANK}, id="NUL"),
        pytest.param(RunCreated, {"orgId": "a\n"}, {"orgId": BLANK}, id="line end in a name"),
        pytest.param(RunCreated, {"format": "\x85a"}, {"format": BLANK}, id="C1 control character"),
        pytest.param(RunCreated, {"orgId": 5}, {"orgId": "valid string"}, id="number for text"),
        pytest.param(RunCreated, {"orgId": None}, {"orgId": "valid string"}, id="null for required"),
        pytest.param(RunCreated, {"runId": "r-1"}, {"runId": "valid UUID"}, id="no uuid"),
        pytest.param(RunCreated, {"schemaVersion": 2}, {"schemaVersion": WRONG_VERSION}, id="version 2"),
        pytest.param(RunCreated, {"schemaVersion": "1"}, {"schemaVersion": "integer"}, id="version in quotes"),
        pytest.param(RunCreated, {"schemaVersion": True}, {"schemaVersion": "integer"}, id="version true"),
        pytest.param(RunCreated, {"occurredAt": "2026-01-31T09:30:00"}, {"occurredAt": NO_TIME}, id="naive"),
        pytest.param(RunCreated, {"occurredAt": "2026-01-31"}, {"occurredAt": NO_TIME}, id="day for a time"),
        pytest.param(RunCreated, {"occurredAt": "2016-12-31T23:58:60Z"}, {"occurredAt": NO_LEAP}, id="second 60"),
        pytest.param(RunCreated, {"occurredAt": "2017-01-30T23:59:60Z"}, {"occurredAt": NO_LEAP}, id="leap day"),
        pytest.param(RunCreated, {"occurredAt": "2016-12-31T23:59:60+01:00"}, {"occurredAt": NO_LEAP}, id="leap zone"),
        pytest.param(RunCreated, {"occurredAt": "9999-12-31T23:59:60Z"}, {"occurredAt": OUT_OF_RANGE}, id="last leap"),
        pytest.param(RunCreated, {"occurredAt": 1_769_851_800}, {"occurredAt": NO_TIME}, id="Unix time"),
        pytest.param(RunCreated, {"occurredAt": "2026-02-30T00:00:00Z"}, {"occurredAt": "day value"}, id="30 February"),
        pytest.param(
            RunCreated, {"periodStart": "2026-01-31T00:00:00Z"}, {"periodStart": NO_DATE}, id="time for a day"
        ),
        pytest.param(RunCreated, {"periodStart": "20260131"}, {"periodStart": NO_DATE}, id="basic format"),
        pytest.param(
            RunCreated,
            {"periodStart": "2026-01-31", "periodEnd": "2026-01-30"},
            {"periodEnd": "must not be before periodStart"},
            id="period backwards",
        ),
        pytest.param(
            RunCreated,
            {"override": {"reason": " \n"}},
            {"override.reason": BLANK_PROSE, "override.approvedBy": "Field required"},
            id="nested fields",
        ),
        pytest.param(RunFinished, {"status": "pending"}, {"status": "'failed'"}, id="finished as pending"),
        pytest.param(RunFinished, {"status": "done"}, {"status": "'failed'"}, id="unknown status"),
        pytest.param(RunFinished, {"claimIds": None}, {"claimIds": "valid array"}, id="null for a list"),
        pytest.param(RunFinished, {"claimIds": ["c", "c", ""]}, {"claimIds.2": "1 character"}, id="in a list"),
        pytest.param(
            RunFinished,
            {"skippedClaims": [{"claimId": "c", "reason": "r"}, {"claimId": " "}]},
            {"skippedClaims.1.claimId": BLANK, "skippedClaims.1.reason": "Field required"},
            id="in an object in a list",
        ),
        pytest.param(
            RunFinished,
            {"error": {"code": "E", "detail": "a\x00b"}},
            {"error.detail": "must not hold NUL"},
            id="NUL in a detail",
        ),
        pytest.param(
            GetExportHistory,
            {"orgId": "org-1", "offset": 0, "cursor": "x"},
            {"cursor": "excludes offset"},
            id="cursor and offset",
        ),
        pytest.param(
            GetExportHistory,
            {"orgId": "org-1", "status": "done"},
            {"status": "'pending'"},
            id="status filter",
        ),
        pytest.param(
            GetExportHistory,
            {"orgId": "org-1", "includeDeleted": "yes"},
            {"includeDeleted": "boolean"},
            id="flag",
        ),
        pytest.param(
            GetExportHistory,
            {"orgId": "org-1", "createdFrom": "2026-01-31T09:30:00Z", "createdTo": "2026-01-31T09:29:59.999999Z"},
            {"createdTo": "must not be before createdFrom"},
            id="range backwards",
        ),
        pytest.param(
            GetExportHistory, {"orgId": "org-1", "createdTo": "now"}, {"createdTo": NO_TIME}, id="time filter"
        ),
        pytest.param(
            DeleteExportRun,
            {},
            {"runId": "Field required", "deletedBy": "Field required", "reason": "Field required"},
            id="all missing",
        ),
    ],
)
def test_an_error_names_the_field_as_on_the_wire(
    model: type[WireModel], fields: Json, expected: dict[str, str]
) -> None:
    found = errors(model, VALID.get(model, {}) | fields)
    assert found.keys() == expected.keys()
    for field, message in expected.items():
        assert message in found[field]


def test_python_names_of_fields_are_not_accepted() -> None:
    fields = run_created()
    fields["org_id"] = fields.pop("orgId")
    assert errors(RunCreated, fields) == {"orgId": "Field required"}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        pytest.param(RunFinished, run_finished(status="secret-1"), id="status"),
        pytest.param(RunCreated, run_created(orgId=["secret-1"]), id="wrong type"),
        pytest.param(RunCreated, run_created(schemaVersion="secret-1"), id="version"),
        pytest.param(RunCreated, run_created(occurredAt="secret-1"), id="time"),
        pytest.param(RunFinished, run_finished(claimIds=["secret-1\x00"]), id="claim"),
    ],
)
def test_errors_contain_no_values_and_no_python_names(model: type[WireModel], body: Json) -> None:
    """The value that was refused and the names of Python classes do not belong into a reply."""
    for message in errors(model, body).values():
        assert "secret-1" not in message
        assert "<" not in message
        assert "RunStatus" not in message


def test_only_the_first_errors_are_listed_and_the_others_are_counted() -> None:
    claim_ids = [""] * (limits.ERROR_DETAILS_MAX + 5)
    found = errors(CheckClaims, {"orgId": "org-1", "claimIds": claim_ids})
    assert list(found) == [*(f"claimIds.{position}" for position in range(limits.ERROR_DETAILS_MAX)), "body"]
    assert found["body"] == "has 5 more fields that are wrong"


def test_the_exception_text_lists_the_errors() -> None:
    with pytest.raises(InvalidBody, match=r"^orgId: Field required; claimIds: Field required$"):
        decode(CheckClaims, b"{}")


def test_optional_fields_may_be_absent_or_null() -> None:
    required = {"orgId": "org-1", "triggeredBy": "alice", "format": "csv"}
    nulls = dict.fromkeys(("runId", "targetSystem", "periodStart", "periodEnd", "retryOfRunId", "override"))
    absent, null = (decode(CreateExportRun, json.dumps(each).encode()) for each in (required, required | nulls))
    assert absent.model_dump() == null.model_dump()
    assert absent.run_id is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from([RunCreated, RunFinished, GetExportHistory, CheckClaims]), st.binary() | json_values)
def test_garbage_always_raises_invalid_body(model: type[WireModel], what: Any) -> None:
    body = what if isinstance(what, bytes) else json.dumps(what).encode()
    with pytest.raises(InvalidBody):
        decode(model, body)


@given(st.data())
def test_one_field_with_any_value_is_accepted_or_named(data: st.DataObject) -> None:
    fields = run_finished(
        skippedClaims=[], error=None, artifact={"key": "k", "sha256": "s", "sizeBytes": 1}, externalAckId="a"
    )
    name = data.draw(st.sampled_from(sorted(fields)))
    body = json.dumps(fields | {name: data.draw(json_values)}).encode()
    try:
        assert decode(RunFinished, body).payload == body.decode()
        fields_in_errors = {name}
    except InvalidBody as invalid:
        fields_in_errors = {detail.field.split(".")[0] for detail in invalid.details}
    assert fields_in_errors == {name}
