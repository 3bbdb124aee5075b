"""Sends the examples of a page to a worker, from top to bottom."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from cli.contract.pages import Block
from tests.wire import POLL_S, WAIT_S, Json, Wire


async def played(wire: Wire, examples: Iterable[Block]) -> AsyncIterator[tuple[Block, Any]]:
    """Each block of JSON with what was really sent or received: an event or a request as it is shown, and the reply,
    the headers or the alert that came.
    """
    answer: Any = None
    for block in examples:
        shown: Json = json.loads(block.text)
        match block.info[1:]:
            case ("event", event_type):
                await wire.publish(event_type, shown)
                await _until_stored(wire, shown)
                yield block, shown
            case ("refused", event_type):
                await wire.publish(event_type, shown)
                answer = dict((await wire.take_from(f"export-runs.{event_type}.dead")).headers)
                yield block, shown
            case ("headers",):
                yield block, {name: answer[name] for name in shown}
            case ("request", operation):
                answer = await wire.ask(operation, shown)
                yield block, shown
            case ("reply", _):
                yield block, answer
            case ("alert", event_type):
                alert = await wire.take_from("export-runs.alerts")
                assert (alert.routing_key, alert.type) == (event_type, event_type)
                yield block, json.loads(alert.body)


async def _until_stored(wire: Wire, event: Json) -> None:
    """Wait until the run of an event shows what the event says."""
    facts = {"triggeredBy": event["triggeredBy"]} if "triggeredBy" in event else {"status": event["status"]}
    async with asyncio.timeout(WAIT_S):
        while not (run := await wire.run(event["runId"])) or any(run[name] != facts[name] for name in facts):
            await asyncio.sleep(POLL_S)
