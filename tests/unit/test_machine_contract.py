"""The contract for machines is current, and says of each body what the service says."""

import json
import re
import sys
from importlib import metadata
from typing import Any

import jsonschema_rs
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from cli.console import DISTRIBUTION
from cli.contract.commands import contract_files
from cli.contract.json_schemas import DEAD_LETTER_HEADERS, ERROR_REPLY, bodies, reply_name, request_name
from cli.contract.pages import blocks, valid_examples
from schema import limits
from schema.decoding import InvalidBody, decode
from schema.errors import DeadLetterCode
from schema.events import EVENTS
from schema.fields import NAME_PATTERN, PROSE_PATTERN, Name, Prose
from tests.pages import ROOT, read
from tests.wire import Json, run_created, run_finished

CONTRACT = read("docs/CONTRACT.md")
SCHEMAS = {path.stem: json.loads(path.read_text("utf-8")) for path in (ROOT / "docs/schemas").glob("*.json")}
UUID = "b2d04f6a-5c1e-4a7b-9d3f-8e6a2c41f0b7"


def is_valid(name: str, body: Any) -> bool:
    """Whether the published schema of a message allows a body. It checks formats as well."""
    return jsonschema_rs.validator_for(SCHEMAS[name], validate_formats=True).is_valid(body)


def test_the_files_are_current() -> None:
    files = contract_files(CONTRACT, metadata.version(DISTRIBUTION))
    differing = [name for name, text in files.items() if read(f"docs/{name}") != text]
    assert differing == [], "run `export-runs contract`, and commit what it writes"
    assert {f"schemas/{name}.json" for name in SCHEMAS} == set(files) - {"asyncapi.yaml"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one(name: str) -> None:
    assert jsonschema_rs.meta.is_valid(SCHEMAS[name])
    assert SCHEMAS[name]["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def schema_of(kind: str, name: str) -> str:
    """The schema of an example."""
    match kind:
        case "request" | "refused request":
            return request_name(name)
        case "reply":
            return reply_name(name)
        case "error":
            return ERROR_REPLY
        case "headers":
            return DEAD_LETTER_HEADERS
        case _:
            return name


def test_every_example_of_the_contract_fits_its_schema() -> None:
    examples = list(valid_examples(CONTRACT))
    assert {example.kind for example in examples} == {"event", "request", "reply", "error", "alert", "headers"}
    assert [example for example in examples if not is_valid(schema_of(example.kind, example.name), example.value)] == []


def test_every_example_of_the_asyncapi_document_fits_its_schema() -> None:
    document = yaml.safe_load(read("docs/asyncapi.yaml"))
    shown = 0
    for message in document["components"]["messages"].values():
        for part in {"headers", "payload"} & set(message):
            schema = jsonschema_rs.Draft7Validator({**message[part], "components": document["components"]})
            examples = [example[part] for example in message.get("examples", []) if part in example]
            assert [example for example in examples if not schema.is_valid(example)] == []
            assert not schema.is_valid([])
            shown += len(examples)
    assert shown == len(list(valid_examples(CONTRACT)))


def test_every_event_that_the_pages_publish_from_a_file_fits_its_schema() -> None:
    [lines] = [block.text for block in blocks(read("docs/MIGRATION.md")) if block.info == ("jsonl", "lines")]
    events = [json.loads(line) for line in lines.splitlines()]
    assert events
    assert [event for event in events if not is_valid(event["type"], event)] == []


def test_the_examples_that_are_refused_do_not_fit() -> None:
    [refused] = [block for block in blocks(CONTRACT) if block.info[:2] == ("json", "refused")]
    assert not is_valid(refused.info[2], json.loads(refused.text))
    assert not is_valid("check-claims.request", {"orgId": "acme", "claimIds": ["taxi-17", " "]})


@pytest.mark.parametrize(
    ("name", "body", "fits"),
    [
        ("run-created", run_created(), True),
        ("run-created", run_created(orgId="x" * limits.TEXT_CHARS_MAX), True),
        ("run-created", run_created(orgId="x" * (limits.TEXT_CHARS_MAX + 1)), False),
        ("run-created", run_created(orgId=7), False),
        ("run-created", run_created(orgId="a\u0085b"), False),
        ("run-created", run_created(orgId="\u3000"), False),
        ("run-created", run_created(schemaVersion=2), False),
        ("run-created", run_created(trigger="robot"), False),
        ("run-created", run_created(unknown={"kept": 1}), True),
        ("run-created", {key: value for key, value in run_created().items() if key != "format"}, False),
        ("run-finished", run_finished(status="pending"), False),
        ("run-finished", run_finished(skippedClaims=None), True),
        ("run-finished", run_finished(skippedClaims=[{"claimId": "c", "reason": "two\nlines"}]), True),
        ("run-finished", run_finished(skippedClaims=[{"claimId": "c", "reason": "\n"}]), False),
        ("run-finished", run_finished(totals=[{"currency": "EUR", "claimCount": 1, "amount": "-1.0005"}]), True),
        ("run-finished", run_finished(totals=[{"currency": "EUR", "claimCount": 1, "amount": "1.00005"}]), False),
        ("run-finished", run_finished(totals=[{"currency": "EUR", "claimCount": 1, "amount": 1.5}]), False),
        ("run-finished", run_finished(totals=[{"currency": "eur", "claimCount": 1, "amount": "1"}]), False),
        ("check-claims.request", {"orgId": "a", "claimIds": []}, False),
        ("check-claims.request", {"orgId": "a", "claimIds": ["c"] * limits.CHECK_CLAIMS_MAX}, True),
        ("check-claims.request", {"orgId": "a", "claimIds": ["c"] * (limits.CHECK_CLAIMS_MAX + 1)}, False),
        ("list-run-claims.request", {"runId": UUID, "limit": limits.RUN_CLAIMS_PAGE_MAX}, True),
        ("list-run-claims.request", {"runId": UUID, "limit": limits.RUN_CLAIMS_PAGE_MAX + 1}, False),
        ("list-run-claims.request", {"runId": UUID, "limit": 0}, False),
    ],
)
def test_a_schema_allows_what_the_service_allows(name: str, body: Json, fits: bool) -> None:
    assert is_valid(name, body) == fits
    [model, _] = bodies()[name]
    try:
        decode(model, json.dumps(body).encode())
    except InvalidBody:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize(("type_", "pattern"), [(Name, NAME_PATTERN), (Prose, PROSE_PATTERN)])
def test_a_pattern_means_the_same_in_python_and_in_the_service(type_: Any, pattern: str) -> None:
    adapter: TypeAdapter[str] = TypeAdapter(type_)
    python = re.compile(pattern)
    differing = []
    for code in (*range(0xD800), *range(0xE000, 0x11000), 0xE0001, sys.maxunicode):
        for text in (chr(code), f"a{chr(code)}a"):
            try:
                adapter.validate_python(text)
            except ValidationError:
                allowed = False
            else:
                allowed = True
            if allowed != bool(python.search(text)):
                differing.append(code)
    assert differing == []


def test_a_result_names_its_fields_that_are_always_there() -> None:
    run = SCHEMAS["get-export-run-by-id.reply"]["$defs"]["ExportRunWithClaims"]
    optional = {
        "hasFutureTime",
        "totals",
        "totalsDisagree",
        "imported",
        "reversedCount",
        "reversals",
        "claimsNextCursor",
    }
    assert set(run["properties"]) - set(run["required"]) == optional
    entry = SCHEMAS["explain-claim.reply"]["$defs"]["TimelineEntry"]
    assert set(entry["properties"]) == set(entry["required"])


def test_the_headers_of_a_dead_letter_name_every_code() -> None:
    headers = {"x-error-detail": "d", "x-failed-at": "2026-01-31T09:30:01Z", "x-original-queue": "q"}
    assert all(is_valid(DEAD_LETTER_HEADERS, {"x-error-code": code, **headers}) for code in DeadLetterCode)
    assert not is_valid(DEAD_LETTER_HEADERS, {"x-error-code": "OTHER", **headers})
    assert not is_valid(DEAD_LETTER_HEADERS, headers)


def test_descriptions_name_fields_as_the_wire_does() -> None:
    names = re.findall(r"`([a-z]+_\w+)`", json.dumps(SCHEMAS))
    assert names == []


def test_every_event_has_a_schema() -> None:
    assert set(EVENTS) <= set(SCHEMAS)
