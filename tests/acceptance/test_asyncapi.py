"""docs/asyncapi.yaml is valid for the official AsyncAPI parser, which is an npm package, and so needs Node.js."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.debian import install
from schema.alerts import DOUBLE_EXPORT_DETECTED
from schema.events import EVENTS
from schema.operations import OPERATIONS
from tests.pages import ROOT, read

PARSER = ROOT / "tests/asyncapi"
INSTALL_TIMEOUT_S = 300
PARSE_TIMEOUT_S = 60

ERROR, WARNING = 0, 1
"""Severities. What is less severe is advice."""

Document = dict[str, Any]


@pytest.fixture(scope="module")
def parser() -> None:
    """The parser and what it needs, in the versions of the lock."""
    if not shutil.which("npm"):
        install("npm", "install Node.js and npm", print)
    subprocess.run(["npm", "ci"], cwd=PARSER, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)


def parse(path: Path) -> dict[str, Any]:
    """What the parser says of a document: its operations, and what is wrong with it."""
    command = ["node", "parse.mjs", str(path)]
    done = subprocess.run(command, cwd=PARSER, check=True, capture_output=True, timeout=PARSE_TIMEOUT_S)
    result: dict[str, Any] = json.loads(done.stdout)
    result["wrong"] = [each for each in result["diagnostics"] if each["severity"] in (ERROR, WARNING)]
    return result


@pytest.mark.usefixtures("parser")
def test_the_document_is_valid() -> None:
    parsed = parse(ROOT / "docs/asyncapi.yaml")
    assert parsed["wrong"] == []
    dead = [f"{event_type}.dead" for event_type in EVENTS]
    requests = [operation.name for operation in OPERATIONS]
    assert parsed["operations"] == [*EVENTS, *requests, DOUBLE_EXPORT_DETECTED, *dead]


def unknown_field(document: Document) -> None:
    document["channels"]["check-claims"]["queue"] = "export-runs.rpc.check-claims"


def unknown_binding(document: Document) -> None:
    document["operations"]["run-created"]["bindings"]["amqp"]["deliveryMode"] = 3


def reply_of_no_channel(document: Document) -> None:
    document["operations"]["check-claims"]["reply"]["messages"][0]["$ref"] = "#/channels/replies/messages/nothing"


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("spoil", [unknown_field, unknown_binding, reply_of_no_channel])
def test_a_document_that_is_wrong_is_noticed(spoil: Callable[[Document], None], tmp_path: Path) -> None:
    document = yaml.safe_load(read("docs/asyncapi.yaml"))
    spoil(document)
    path = tmp_path / "asyncapi.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert parse(path)["wrong"] != []
