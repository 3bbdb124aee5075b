"""docs/asyncapi.yaml is valid for the official AsyncAPI parser, which is an npm package, and so needs Node.js."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the parser says of a document: its operations, and its diagnostics."""

    operations: list[str] | None
    diagnostics: list[dict[str, Any]]

    def wrong(self) -> list[dict[str, Any]]:
        return [each for each in self.diagnostics if each["severity"] in (ERROR, WARNING)]


@pytest.fixture(scope="module")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Parsed]]:
    """Parse documents, all in one process. The parser has the versions of the lock."""
    if not shutil.which("npm"):
        install("npm", "install Node.js and npm", print)
    subprocess.run(["npm", "ci"], cwd=PARSER, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)

    def run(*documents: str) -> list[Parsed]:
        folder = tmp_path_factory.mktemp("documents")
        paths = [folder / f"{number}.yaml" for number in range(len(documents))]
        for path, document in zip(paths, documents, strict=True):
            path.write_text(document, encoding="utf-8")
        done = subprocess.run(
            ["node", "parse.mjs", *paths], cwd=PARSER, check=True, capture_output=True, timeout=PARSE_TIMEOUT_S
        )
        return [Parsed(**json.loads(line)) for line in done.stdout.splitlines()]

    return run


def unknown_field(document: Document) -> None:
    document["channels"]["check-claims"]["queue"] = "export-runs.rpc.check-claims"


def unknown_binding(document: Document) -> None:
    document["operations"]["run-created"]["bindings"]["amqp"]["deliveryMode"] = 3


def reply_of_no_channel(document: Document) -> None:
    document["operations"]["check-claims"]["reply"]["messages"][0]["$ref"] = "#/channels/replies/messages/nothing"


def spoilt(spoil: Callable[[Document], None]) -> str:
    document = yaml.safe_load(read("docs/asyncapi.yaml"))
    spoil(document)
    return yaml.safe_dump(document)


def test_the_document_is_valid_and_one_that_is_wrong_is_noticed(parse: Callable[..., list[Parsed]]) -> None:
    spoilers = (unknown_field, unknown_binding, reply_of_no_channel)
    valid, *others = parse(read("docs/asyncapi.yaml"), *map(spoilt, spoilers))
    assert valid.wrong() == []
    dead = [f"{event_type}.dead" for event_type in EVENTS]
    requests = [operation.name for operation in OPERATIONS]
    assert valid.operations == [*EVENTS, *requests, DOUBLE_EXPORT_DETECTED, *dead]
    assert {spoil.__name__: bool(other.wrong()) for spoil, other in zip(spoilers, others, strict=True)} == {
        spoil.__name__: True for spoil in spoilers
    }
