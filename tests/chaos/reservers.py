"""Clients that reserve claims, and then renew them, release them, fail, export them, or crash."""

import asyncio
from random import Random
from typing import Final

from tests.chaos.events import ORGANISATIONS, Claims, EventStream
from tests.chaos.exporters import Publisher
from tests.chaos.guard import Guard
from tests.chaos.reversers import Exports

CLAIMS_RESERVED_MAX: Final = 5
TTL_S_MAX: Final = 3
HELD_S_MAX: Final = 1.5
PAUSE_S: Final = 0.1


async def reserve(
    guard: Guard,
    publisher: Publisher,
    stream: EventStream,
    claims: Claims,
    exports: Exports,
    stopping: asyncio.Event,
) -> None:
    """Reserve a few claims again and again, until `stopping` is set."""
    random: Random = stream.random
    while not stopping.is_set():
        run = {"orgId": random.choice(ORGANISATIONS), "runId": stream.uuid()}
        request = {
            **run,
            "claimIds": claims.draw_leased(random, CLAIMS_RESERVED_MAX),
            "ttlSeconds": random.randint(1, TTL_S_MAX),
            "mode": random.choice(["all-or-nothing", "available"]),
            "takeExpired": random.random() < 0.5,
        }
        reply = await guard.ask_twice("reserve-claims", request)
        if reply and reply["ok"] and reply["result"]["granted"]:
            await asyncio.sleep(random.uniform(0, HELD_S_MAX))
            next_step = random.choice(["renew", "release", "failed", "completed", "crash"])
            match next_step:
                case "renew":
                    await guard.ask_twice("reserve-claims", {**request, "claimIds": reply["result"]["granted"]})
                case "release":
                    await guard.ask_twice("release-claims", run)
                case "failed" | "completed":
                    finished = stream.finished(**run, status=next_step, claimIds=reply["result"]["granted"])
                    finished.pop("skippedClaims", None)
                    await publisher.deliver([stream.outgoing(finished, "run-finished")])
                    if next_step == "completed":
                        exports.note(finished)
                        claims.replace_leased()
                case _:
                    pass
        await asyncio.sleep(PAUSE_S)
