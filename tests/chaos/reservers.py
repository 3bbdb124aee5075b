"""Those who reserve claims, and then renew, release, fail, export, or are never heard of again."""

import asyncio
from random import Random
from typing import Final

from tests.chaos.events import ORGANISATIONS, Claims, Story
from tests.chaos.exporters import Publisher
from tests.chaos.guard import Guard

CLAIMS_RESERVED_MAX: Final = 5
TTL_S_MAX: Final = 3
HELD_S_MAX: Final = 1.5
PAUSE_S: Final = 0.1


async def reserve(guard: Guard, publisher: Publisher, story: Story, claims: Claims, stopping: asyncio.Event) -> None:
    """Reserve a few claims of few, again and again, until told to stop."""
    random: Random = story.random
    while not stopping.is_set():
        run = {"orgId": random.choice(ORGANISATIONS), "runId": story.uuid()}
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
            what = random.choice(["renew", "release", "failed", "completed", "crash"])
            match what:
                case "renew":
                    await guard.ask_twice("reserve-claims", {**request, "claimIds": reply["result"]["granted"]})
                case "release":
                    await guard.ask_twice("release-claims", run)
                case "failed" | "completed":
                    finished = story.finished(**run, status=what, claimIds=reply["result"]["granted"])
                    finished.pop("skippedClaims", None)
                    await publisher.deliver([story.outgoing(finished, "run-finished")])
                    if what == "completed":
                        claims.replace_leased()
                case _:
                    pass
        await asyncio.sleep(PAUSE_S)
