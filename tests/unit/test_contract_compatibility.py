"""Who knows the contract of a released version can go on with today's, but for what was changed on purpose."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest

from cli.contract.json_schemas import bodies, schema_files
from schema.decoding import decode
from tests.contract.compatibility import breaks
from tests.contract.deliberate import DELIBERATE
from tests.contract.versions import Version, comes_in, versions

TODAY = schema_files()
VERSIONS = versions()

every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


def is_valid(schema: dict[str, Any], body: Any) -> bool:
    return jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(body)


@every_version
def test_nothing_breaks_but_on_purpose(version: Version) -> None:
    deliberate = {name: sorted(change.breaks) for name, change in DELIBERATE.get(version.name, {}).items()}
    found = {name: breaks(schema, TODAY[name], comes_in=comes_in(name)) for name, schema in version.schemas.items()}
    assert {name: lines for name, lines in found.items() if lines} == deliberate


def test_what_was_changed_on_purpose_is_about_versions_that_are_kept() -> None:
    assert set(DELIBERATE) <= {version.name for version in VERSIONS}
    assert VERSIONS


@every_version
def test_what_was_sent_to_the_version_is_taken_today(version: Version) -> None:
    sent = [message for message in version.messages if message.kind in ("event", "request")]
    assert sent
    for message in sent:
        if message.schema not in DELIBERATE.get(version.name, {}):
            [model, _] = bodies()[message.schema]
            decode(model, json.dumps(message.body).encode())


@every_version
def test_the_records_of_a_version_agree(version: Version) -> None:
    """Each message fits its version's schema unless it was refused, and there is one of each event, request, reply and
    alert.
    """
    for message in version.messages:
        assert is_valid(version.schemas[message.schema], message.body) == (message.kind != "refused"), message
    assert {message.schema for message in version.messages} == set(version.schemas) - {"dead-letter-headers"}


Spoil = Callable[[dict[str, Any]], Any]


def definition(schema: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][name]
    return found


def in_run(schema: dict[str, Any]) -> dict[str, Any]:
    return definition(schema, "ExportRun")


def choices(schema: dict[str, Any], field: str) -> list[Any]:
    alternatives: list[Any] = schema["properties"][field]["anyOf"]
    return alternatives


@pytest.mark.parametrize(
    ("name", "spoil", "found"),
    [
        pytest.param(
            "check-claims.request",
            lambda schema: schema["required"].append("actor"),
            ".actor: may be absent",
            id="a request must have another field",
        ),
        pytest.param(
            "reserve-claims.request",
            lambda schema: schema["required"].append("mode"),
            ".mode: may be absent",
            id="an optional field of a request is required",
        ),
        pytest.param(
            "check-claims.request",
            lambda schema: schema["properties"]["claimIds"].update(maxItems=9_999),
            ".claimIds: has another maxItems",
            id="a request has a lower bound",
        ),
        pytest.param(
            "reserve-claims.request",
            lambda schema: schema["properties"]["ttlSeconds"].update(minimum=60),
            ".ttlSeconds: has another minimum",
            id="a request has a higher least value",
        ),
        pytest.param(
            "reserve-claims.request",
            lambda schema: schema["properties"]["ttlSeconds"].update(default=60),
            ".ttlSeconds: has another default",
            id="what is absent means something else",
        ),
        pytest.param(
            "run-created",
            lambda schema: schema["properties"]["orgId"].update(pattern="^[a-z]+$"),
            ".orgId: has another pattern",
            id="a text of an event follows another pattern",
        ),
        pytest.param(
            "run-created",
            lambda schema: schema["properties"]["occurredAt"].update(type="integer"),
            ".occurredAt: may be string, not only integer",
            id="a field of an event has another type",
        ),
        pytest.param(
            "run-created",
            lambda schema: schema["properties"].pop("scope"),
            ".scope: is gone",
            id="a field of an event is not read any more",
        ),
        pytest.param(
            "run-created",
            lambda schema: choices(schema, "scope").pop(),
            ".scope: may be null, not only string",
            id="a field of an event may not be null any more",
        ),
        pytest.param(
            "run-created",
            lambda schema: definition(schema, "RunTrigger")["enum"].remove("api"),
            ".trigger: may be api",
            id="an enum of an event shrinks",
        ),
        pytest.param(
            "run-finished",
            lambda schema: schema["properties"]["status"]["enum"].remove("partial"),
            ".status: may be partial",
            id="a status of an event is refused",
        ),
        pytest.param(
            "run-finished",
            lambda schema: definition(schema, "SkippedClaim")["required"].append("code"),
            ".skippedClaims[].code: may be absent",
            id="a field inside a list of an event is required",
        ),
        pytest.param(
            "get-last-export.reply",
            lambda schema: [in_run(schema)["properties"].pop("scope"), in_run(schema)["required"].remove("scope")],
            ".result.run.scope: is gone",
            id="a result loses a field",
        ),
        pytest.param(
            "get-last-export.reply",
            lambda schema: in_run(schema)["properties"].pop("totals"),
            ".result.run.totals: is gone",
            id="a result loses an optional field",
        ),
        pytest.param(
            "get-last-export.reply",
            lambda schema: in_run(schema)["required"].remove("status"),
            ".result.run.status: may be absent",
            id="a field of a result may be left out",
        ),
        pytest.param(
            "get-last-export.reply",
            lambda schema: in_run(schema)["properties"].update(
                claimCount={"anyOf": [{"type": "integer"}, {"type": "null"}]}
            ),
            ".result.run.claimCount: may be null, not only integer",
            id="a field of a result may be null",
        ),
        pytest.param(
            "get-last-export.reply",
            lambda schema: definition(schema, "RunStatus")["enum"].append("frozen"),
            ".result.run.status: may be frozen",
            id="a result may have a value that nobody knows",
        ),
        pytest.param(
            "explain-claim.reply",
            lambda schema: definition(schema, "LeaseReason")["properties"].pop("expiresAt"),
            ".result.because[].expiresAt: is gone",
            id="one of several kinds loses a field",
        ),
        pytest.param(
            "double-export-detected",
            lambda schema: schema["properties"]["claimIds"].update(maxItems=101),
            ".claimIds: has another maxItems",
            id="an alert has more in a list",
        ),
    ],
)
def test_a_break_is_found(name: str, spoil: Spoil, found: str) -> None:
    later = deepcopy(TODAY[name])
    spoil(later)
    assert found in breaks(TODAY[name], later, comes_in=comes_in(name))


def test_what_breaks_nothing_is_not_found() -> None:
    earlier = TODAY["run-created"]
    later = deepcopy(earlier)
    later["properties"]["costCentre"] = {"type": "string"}
    later["properties"]["orgId"]["maxLength"] += 1
    later["required"].remove("format")
    definition(later, "RunTrigger")["enum"].append("import")
    assert breaks(earlier, later, comes_in=True) == []
    result = TODAY["get-last-export.reply"]
    more = deepcopy(result)
    in_run(more)["properties"]["costCentre"] = {"type": "string"}
    in_run(more)["required"].append("costCentre")
    assert breaks(result, more, comes_in=False) == []


@pytest.mark.parametrize("name", TODAY)
def test_a_schema_breaks_nothing_of_itself(name: str) -> None:
    assert breaks(TODAY[name], TODAY[name], comes_in=comes_in(name)) == []


def test_a_keyword_that_is_not_compared_is_an_error() -> None:
    later = {**TODAY["run-created"], "additionalProperties": False}
    with pytest.raises(ValueError, match="additionalProperties"):
        breaks(TODAY["run-created"], later, comes_in=True)
