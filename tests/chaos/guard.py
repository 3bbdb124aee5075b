"""Clients that send requests as the Double-Export Guard does: with a deadline, and with one retry."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.chaos.client import Client, properties
from tests.chaos.events import ORGANISATIONS, Claims
from tests.chaos.ledger import Ledger

Json = dict[str, Any]

DEADLINE_S: Final = 3.0
MARGIN_S: Final = 0.5
"""The client waits this much longer than the deadline."""

RETRY_DELAY_S: Final = 0.5

CLAIMS_PER_CHECK_MAX: Final = 20


@dataclass
class Counts:
    """How many requests were answered, failed, stayed without a reply, were retried, and were answered on the retry."""

    requests: int = 0
    answered: int = 0
    errors: int = 0
    silent: int = 0
    retried: int = 0
    answered_on_retry: int = 0


class Guard:
    """Sends requests with direct reply-to, and writes each request and reply into the ledger."""

    def __init__(self, client: Client, ledger: Ledger, random: Random) -> None:
        self._client = client
        self._ledger = ledger
        self._random = random
        self.counts = Counts()

    async def ask(
        self, operation: str, request: Json, *, deadline_s: float = DEADLINE_S, retry_of: str | None = None
    ) -> tuple[str, Json | None]:
        """Send a request. Returns its id, and the reply if one came in time."""
        ident = f"{self._random.getrandbits(96):024x}"
        future = self._client.futures[ident] = asyncio.get_running_loop().create_future()
        message_properties = properties(
            reply_to="amq.rabbitmq.reply-to",
            correlation_id=ident,
            expiration=str(round(deadline_s * 1000)),
            delivery_mode=1,
        )
        retry = {} if retry_of is None else {"retryOf": retry_of}
        self._ledger.note("ask", id=ident, op=operation, request=request, **retry)
        sent_t = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s + MARGIN_S):
                body = json.dumps(request).encode()
                if not await self._client.publish("export-runs.rpc", operation, body, message_properties):
                    self._ledger.note("unsent", id=ident)
                    return ident, None
                sent_t = time.monotonic()
                self.counts.requests += 1
                reply: Json = json.loads(await future)
        except TimeoutError:
            self.counts.silent += 1
            self._ledger.note("silence", id=ident)
            # RabbitMQ 3.10 goes on refusing what a channel publishes that has met a queue without a leader, and says
            # so only where there are confirms.
            self._client.leave(sent_t)
            return ident, None
        finally:
            del self._client.futures[ident]
        self.counts.answered += reply["ok"]
        self.counts.errors += not reply["ok"]
        self._ledger.note("reply", id=ident, reply=_shortened(reply))
        return ident, reply

    async def ask_twice(self, operation: str, request: Json) -> Json | None:
        """Send a request, and again if no reply came or a retryable error. Returns the last reply."""
        ident, reply = await self.ask(operation, request)
        if reply is None or (not reply["ok"] and reply["error"]["retryable"]):
            self.counts.retried += 1
            await asyncio.sleep(RETRY_DELAY_S)
            _, reply = await self.ask(operation, request, retry_of=ident)
            self.counts.answered_on_retry += reply is not None and reply["ok"]
        return reply

    async def run(self, run_id: str) -> Json | None:
        """A run, or None if the service does not know it or does not answer in time."""
        _, reply = await self.ask("get-export-run-by-id", {"runId": run_id})
        return reply["result"] if reply and reply["ok"] else None

    async def watch(
        self, claims: Claims, recent_runs: Callable[[], list[str]], pause_s: float, stopping: asyncio.Event
    ) -> None:
        """Check claims, and sometimes read a run, until `stopping` is set."""
        random = self._random
        while not stopping.is_set():
            runs = recent_runs()
            if runs and random.random() < 0.2:
                await self.ask_twice("get-export-run-by-id", {"runId": random.choice(runs)})
            else:
                claim_ids = claims.sample(random, CLAIMS_PER_CHECK_MAX)
                await self.ask_twice("check-claims", {"orgId": random.choice(ORGANISATIONS), "claimIds": claim_ids})
            await asyncio.sleep(pause_s)


def _shortened(reply: Json) -> Json:
    """A claim check's reply without the times, which nobody checks here: they would make the ledger much larger."""
    if "exported" not in reply.get("result", {}):
        return reply
    exported = [[each["claimId"], [run["runId"] for run in each["runs"]]] for each in reply["result"]["exported"]]
    reserved = [each["claimId"] for each in reply["result"]["reserved"]]
    return {"ok": True, "exported": exported, "reserved": reserved, "unexported": reply["result"]["unexported"]}
