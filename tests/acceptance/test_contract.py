"""Each example in docs/CONTRACT.md is valid, and a worker answers as the examples show."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from cli.contract.pages import Block, blocks
from schema.alerts import DoubleExportDetected
from schema.decoding import InvalidBody, decode
from schema.events import EVENTS
from schema.operations import OPERATIONS
from schema.replies import ErrorReply, OkReply
from tests.contract.playing import played
from tests.pages import read
from tests.wire import Wire

CONTRACT = read("docs/CONTRACT.md")
EXAMPLES = [block for block in blocks(CONTRACT) if block.info[0] == "json"]

VARYING_FIELDS = {"eventId", "fencingToken", "nextCursor", "count"}
"""These fields have another value in each run. So has every time."""


def examples(kind: str) -> list[Block]:
    return [block for block in EXAMPLES if block.info[1] == kind]


def compare(shown: Any, real: Any, field: str = "") -> None:
    """Assert that two JSON values are equal. Times and VARYING_FIELDS need only have the same type."""
    assert type(shown) is type(real), field
    if isinstance(shown, dict):
        assert list(shown) == list(real), field
        for name in shown:
            compare(shown[name], real[name], name)
    elif isinstance(shown, list):
        assert len(shown) == len(real), field
        for each, other in zip(shown, real, strict=True):
            compare(each, other, field)
    elif field not in VARYING_FIELDS and shown != real:
        assert datetime.fromisoformat(shown).tzinfo, field
        assert datetime.fromisoformat(real).tzinfo, field


def test_every_event_and_every_operation_has_an_example() -> None:
    operations = [operation.name for operation in OPERATIONS]
    assert {block.info[2] for block in examples("event")} == set(EVENTS)
    assert {block.info[2] for block in examples("request")} == set(operations)
    assert [block.info[2] for block in examples("request")] == [block.info[2] for block in examples("reply")]
    assert len(EXAMPLES) == sum(
        len(examples(kind)) for kind in ("event", "refused", "headers", "request", "reply", "alert")
    )


@pytest.mark.parametrize("block", examples("event"), ids=lambda block: f"line-{block.line}")
def test_an_event_is_valid(block: Block) -> None:
    decode(EVENTS[block.info[2]], block.text.encode())


def test_a_request_is_valid_unless_its_reply_is_invalid_request() -> None:
    models = {operation.name: operation.request for operation in OPERATIONS}
    for request, reply in zip(examples("request"), examples("reply"), strict=True):
        if json.loads(reply.text).get("error", {}).get("code") == "INVALID_REQUEST":
            with pytest.raises(InvalidBody):
                decode(models[request.info[2]], request.text.encode())
        else:
            decode(models[request.info[2]], request.text.encode())


def test_replies_and_alerts_fit_their_models() -> None:
    results = {operation.name: operation.result for operation in OPERATIONS}
    for block in examples("reply"):
        ok = json.loads(block.text)["ok"]
        model: Any = OkReply.__class_getitem__(results[block.info[2]]) if ok else ErrorReply
        model.model_validate_json(block.text)
    for block in examples("alert"):
        DoubleExportDetected.model_validate_json(block.text)


def test_the_refused_event_is_not_valid() -> None:
    for block in examples("refused"):
        with pytest.raises(InvalidBody):
            decode(EVENTS[block.info[2]], block.text.encode())


@pytest.mark.usefixtures("worker")
async def test_the_worker_answers_as_shown(wire: Wire) -> None:
    async for block, real in played(wire, EXAMPLES):
        compare(json.loads(block.text), real)
        if block.info[1] == "alert":
            UUID(real["eventId"])
