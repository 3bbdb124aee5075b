"""Those who ask, as the Double-Export Guard does: with a deadline, and once more if need be."""

import asyncio
import json
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
"""An answer that is so much later than its deadline is not waited for."""

RETRY_DELAY_S: Final = 0.5

CLAIMS_ASKED_MAX: Final = 20


@dataclass
class Counts:
    """What became of requests; `cured` are those whose one retry was answered."""

    requests: int = 0
    answered: int = 0
    errors: int = 0
    silent: int = 0
    retried: int = 0
    cured: int = 0


class Guard:
    """Asks over direct reply-to, and writes down what it hears and when."""

    def __init__(self, client: Client, ledger: Ledger, random: Random) -> None:
        self._client = client
        self._ledger = ledger
        self._random = random
        self.counts = Counts()

    async def ask(
        self, operation: str, request: Json, *, deadline_s: float = DEADLINE_S, retry_of: str | None = None
    ) -> tuple[str, Json | None]:
        """Ask; returns the request's id, and the reply if one came in time."""
        ident = f"{self._random.getrandbits(96):024x}"
        heard = self._client.waiting[ident] = asyncio.get_running_loop().create_future()
        given = properties(
            reply_to="amq.rabbitmq.reply-to",
            correlation_id=ident,
            expiration=str(round(deadline_s * 1000)),
            delivery_mode=1,
        )
        retrying = {} if retry_of is None else {"retryOf": retry_of}
        self._ledger.note("ask", id=ident, op=operation, request=request, **retrying)
        try:
            async with asyncio.timeout(deadline_s + MARGIN_S):
                body = json.dumps(request).encode()
                if not await self._client.publish("export-runs.rpc", operation, body, given):
                    self._ledger.note("unsent", id=ident)
                    return ident, None
                self.counts.requests += 1
                reply: Json = json.loads(await heard)
        except TimeoutError:
            self.counts.silent += 1
            self._ledger.note("silence", id=ident)
            return ident, None
        finally:
            del self._client.waiting[ident]
        self.counts.answered += reply["ok"]
        self.counts.errors += not reply["ok"]
        self._ledger.note("reply", id=ident, reply=_shortened(reply))
        return ident, reply

    async def ask_twice(self, operation: str, request: Json) -> Json | None:
        """Ask, and once more if there was no answer or an error that may pass; returns the last reply."""
        ident, reply = await self.ask(operation, request)
        if reply is None or (not reply["ok"] and reply["error"]["retryable"]):
            self.counts.retried += 1
            await asyncio.sleep(RETRY_DELAY_S)
            _, reply = await self.ask(operation, request, retry_of=ident)
            self.counts.cured += reply is not None and reply["ok"]
        return reply

    async def run(self, run_id: str) -> Json | None:
        """One run, if the service knows it and says so in time."""
        _, reply = await self.ask("get-export-run-by-id", {"runId": run_id})
        return reply["result"] if reply and reply["ok"] else None

    async def watch(
        self, claims: Claims, recent_runs: Callable[[], list[str]], pause_s: float, stopping: asyncio.Event
    ) -> None:
        """Ask about claims, and now and then about a run, until told to stop."""
        random = self._random
        while not stopping.is_set():
            runs = recent_runs()
            if runs and random.random() < 0.2:
                await self.ask_twice("get-export-run-by-id", {"runId": random.choice(runs)})
            else:
                asked = claims.ask(random, CLAIMS_ASKED_MAX)
                await self.ask_twice("check-claims", {"orgId": random.choice(ORGANISATIONS), "claimIds": asked})
            await asyncio.sleep(pause_s)


def _shortened(reply: Json) -> Json:
    """Without the finishing times, which nobody checks here: the ledger grows large enough."""
    if "exported" not in reply.get("result", {}):
        return reply
    exported = [[each["claimId"], [run["runId"] for run in each["runs"]]] for each in reply["result"]["exported"]]
    reserved = [each["claimId"] for each in reply["result"]["reserved"]]
    return {"ok": True, "exported": exported, "reserved": reserved, "unexported": reply["result"]["unexported"]}
