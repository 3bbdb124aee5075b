"""Requests that no honest client sends: whoever sends them must cost nobody else anything."""

import json
import time
from random import Random
from typing import Any, Final

from tests.chaos.client import Client, properties
from tests.chaos.events import ORGANISATIONS, EventStream, OutgoingMessage
from tests.chaos.ledger import Ledger
from tests.reply_addresses import address, mutations

Json = dict[str, Any]

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
DIRECT_REPLY_TO: Final = "amq.rabbitmq.reply-to"
DEADLINE_MS: Final = 3_000
CLOCK_OF_LONG_AGO_S: Final = 60

LARGE_ORG: Final = "org-large"
LARGE_RUN_EVENTS: Final = 4
LARGE_EVENT_CLAIMS: Final = 20_000
LARGE_CLAIM_CHARS: Final = 196
"""The claims of all events together fit into no reply, those of one event into a message."""

OK: Final = "OK"
"""In place of an error code: of a run that fits into no reply the first claims are shown."""

OPERATIONS: Final = ("check-claims", "get-export-run-by-id", "reserve-claims", "release-claims")


class BadRequests:
    """Sends bad requests. The ledger has each one, and the error code that must come back, if one must."""

    def __init__(self, amqp_url: str, ledger: Ledger) -> None:
        self._client = Client(amqp_url, replies=True, on_reply=self._heard)
        self._ledger = ledger
        self._is_expected: set[str] = set()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def send(self, random: Random, large_run_id: str | None) -> None:
        """Send one of some kind. `large_run_id` is a run that fits into no reply, if there is one already."""
        kinds = [self._forged] * 6 + [self._without_correlation, self._without_reply_to, self._expired, self._too_late]
        kinds += [self._oversized]
        if large_run_id is not None and random.random() < 0.1:
            await self._publish(random, "get-export-run-by-id", {"runId": large_run_id}, OK)
        else:
            await random.choice(kinds)(random)

    async def _forged(self, random: Random) -> None:
        """An address that no broker has made, or one of a node or a process that does not exist."""
        node = random.choice([b"reply@%d" % random.getrandbits(27), b"reply@node", b"rabbit@localhost", b""])
        reply_to = address(node=node, numbers=random.randbytes(12), key=random.randbytes(16))
        if random.random() < 0.7:
            reply_to = mutations(reply_to, random)
        await self._publish(random, random.choice(OPERATIONS), _check(random), None, reply_to=reply_to)

    async def _without_correlation(self, random: Random) -> None:
        await self._publish(random, "check-claims", _check(random), None, correlation_id=None)

    async def _without_reply_to(self, random: Random) -> None:
        await self._publish(random, "check-claims", _check(random), None, reply_to=None)

    async def _expired(self, random: Random) -> None:
        """RabbitMQ drops it, unless a worker is ready at that moment."""
        await self._publish(random, "check-claims", _check(random), None, expiration="0")

    async def _too_late(self, random: Random) -> None:
        headers = {"timestamp_in_ms": round((time.time() - CLOCK_OF_LONG_AGO_S) * 1000)}
        await self._publish(random, "check-claims", _check(random), "UNAVAILABLE", headers=headers)

    async def _oversized(self, random: Random) -> None:
        body = b"[" + b" " * BODY_BYTES_MAX + b"]"
        await self._publish(random, random.choice(OPERATIONS), body, "INVALID_REQUEST")

    async def _publish(
        self, random: Random, operation: str, request: Json | bytes, code: str | None, **others: Any
    ) -> None:
        ident = f"bad-{random.getrandbits(64):016x}"
        message_properties = properties(
            **{
                "reply_to": DIRECT_REPLY_TO,
                "correlation_id": ident,
                "expiration": str(DEADLINE_MS),
                "delivery_mode": 1,
                **others,
            }
        )
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        self._ledger.note("bad-ask", id=ident, code=code)
        if code is not None:
            self._is_expected.add(ident)
        if not await self._client.publish("export-runs.rpc", operation, body, message_properties):
            self._ledger.note("bad-unsent", id=ident)

    def _heard(self, ident: str, body: bytes) -> None:
        if ident in self._is_expected:
            reply = json.loads(body)
            self._ledger.note("bad-reply", id=ident, code=OK if reply["ok"] else reply["error"]["code"])


def _check(random: Random) -> Json:
    return {"orgId": random.choice(ORGANISATIONS), "claimIds": ["claim-1"]}


def large_run(stream: EventStream) -> tuple[str, list[OutgoingMessage]]:
    """A run whose claims fit into no reply: its id, and its events."""
    run_id = stream.uuid()
    events = []
    for number in range(LARGE_RUN_EVENTS):
        first = number * LARGE_EVENT_CLAIMS
        claim_ids = [f"large-{first + at:06d}-".ljust(LARGE_CLAIM_CHARS, "x") for at in range(LARGE_EVENT_CLAIMS)]
        event = stream.finished(runId=run_id, orgId=LARGE_ORG, status="completed", claimIds=claim_ids, skippedClaims=[])
        events.append(OutgoingMessage(event["eventId"], "run-finished", json.dumps(event).encode()))
    return run_id, events
