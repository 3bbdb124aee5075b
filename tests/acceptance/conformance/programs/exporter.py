"""An exporter that makes the mistake of its argument, and no other. It reserves, renews, pays and reports by hand."""

import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aio_pika

from tests.acceptance.conformance.programs.wire import ANSWER_TIMEOUT_S, Json, Wire

ORG_ID = os.environ["CONFORMANCE_ORG_ID"]
CLAIM_IDS = os.environ["CONFORMANCE_CLAIM_IDS"].split(",")
LEASE_S = int(os.environ["CONFORMANCE_LEASE_S"])
PAY_S = float(os.environ["CONFORMANCE_PAY_S"])


class Exporter:
    """One run."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._mistake = wire.mistake
        self._run_id = str(uuid4())
        self._start_id = str(uuid4())
        self._paid: list[str] = []
        self._granted: list[str] = []
        self._token: int | None = None
        self._granted_at_s = 0.0

    async def run(self) -> None:
        """Do all of it."""
        if self._mistake != "no-start":
            when = "yesterday" if self._mistake == "invalid-event" else datetime.now(UTC).isoformat()
            facts = {"triggeredBy": "alice", "format": "csv", "occurredAt": when}
            await self._tell("run-created", self._start_id, **facts)
        if self._mistake == "never-asks":
            self._granted = CLAIM_IDS
            self._granted_at_s = time.monotonic()
        elif not await self._reserve():
            if self._mistake != "no-release":
                await self._end("failed", [])
            return
        if self._mistake == "no-end":
            return
        for claim_id in self._granted:
            if not await self._still_mine():
                break
            await self._pay(claim_id)
        await self._report()

    async def _reserve(self) -> bool:
        """Reserve the claims; returns whether something may be paid."""
        reply = await self._ask("available")
        repeats = {"UNAVAILABLE"} | ({"CONFLICT"} if self._mistake == "repeats-errors" else set())
        if _code(reply) in repeats and self._mistake not in ("error-is-a-grant", "no-release"):
            reply = await self._ask("available")
        if reply is None or not reply["ok"]:
            self._granted = CLAIM_IDS
            self._granted_at_s = time.monotonic()
            return self._mistake == ("silence-is-a-grant" if reply is None else "error-is-a-grant")
        self._granted = CLAIM_IDS if self._mistake == "conflicts-are-granted" else reply["result"]["granted"]
        self._token = reply["result"]["fencingToken"]
        return bool(self._granted)

    async def _still_mine(self) -> bool:
        """Renew the lease when a third of it is over; returns whether it can be trusted."""
        held_s = time.monotonic() - self._granted_at_s
        if self._mistake == "no-renewal" or held_s < LEASE_S / 3:
            return True
        reply = await self._ask("available" if self._mistake == "renews-available" else "all-or-nothing")
        if reply is None:
            trusted = time.monotonic() - self._granted_at_s < LEASE_S * 2 / 3
        else:
            trusted = bool(reply["ok"]) and reply["result"]["fencingToken"] == self._token
        return trusted or self._mistake == "pays-on"

    async def _ask(self, mode: str) -> Json | None:
        asked_at_s = time.monotonic()
        claims = self._granted or CLAIM_IDS
        facts: Json = {"orgId": ORG_ID, "runId": self._run_id, "claimIds": claims, "ttlSeconds": LEASE_S, "mode": mode}
        reply = await self._wire.ask("reserve-claims", **facts)
        if reply is not None and reply["ok"] and reply["result"]["granted"]:
            self._granted_at_s = asked_at_s
        return reply

    async def _pay(self, claim_id: str) -> None:
        await asyncio.sleep(PAY_S)
        for _ in range(2 if self._mistake == "pays-twice" else 1):
            print(f"paid {claim_id}", flush=True)
        self._paid.append(claim_id)

    async def _report(self) -> None:
        reported = self._paid
        if self._mistake == "forgets-a-payment":
            reported = self._paid[1:]
        elif self._mistake == "reports-unpaid":
            reported = CLAIM_IDS
        whole = set(reported) == set(CLAIM_IDS)
        await self._end("completed" if whole else "partial" if reported else "failed", reported)

    async def _end(self, status: str, claim_ids: list[str]) -> None:
        event_id = self._start_id if self._mistake == "same-event-id" else str(uuid4())
        facts = {"status": status, "claimIds": claim_ids, "occurredAt": datetime.now(UTC).isoformat()}
        await self._tell("run-finished", event_id, **facts)

    async def _tell(self, event_type: str, event_id: str, **facts: Any) -> None:
        """Publish an event until it is confirmed."""
        while True:
            try:
                body = {"eventId": event_id, "runId": self._run_id, "orgId": ORG_ID, **facts}
                telling = asyncio.create_task(self._wire.publish(event_type, **body))
                if self._mistake == "exits-early" and event_type == "run-finished":
                    await asyncio.sleep(0.3)
                    os._exit(0)
                await telling
                return
            except (aio_pika.exceptions.AMQPError, OSError):
                if self._mistake == "gives-up":
                    return
                if self._mistake == "another-event-id":
                    event_id = str(uuid4())
                await self._wire.connect()


def _code(reply: Json | None) -> str | None:
    return None if reply is None or reply["ok"] else reply["error"]["code"]


async def main(mistake: str) -> None:
    """Export what the environment says, and print a line for each payment."""
    wire = Wire(mistake)
    await wire.connect()
    await Exporter(wire).run()
    if mistake == "breaks-a-channel":
        await wire.break_a_channel()
    if mistake == "never-ends":
        await asyncio.sleep(600)


assert ANSWER_TIMEOUT_S < LEASE_S / 3  # or a renewal that nobody answers would take too long

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
