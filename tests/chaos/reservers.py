"""Those who reserve claims, and then renew, release, fail, or are never heard of again."""

import asyncio
from random import Random
from typing import Final

from tests.chaos.events import ORGANISATIONS, Story
from tests.chaos.exporters import Publisher
from tests.chaos.guard import Guard

CLAIMS: Final = 12
CLAIMS_RESERVED_MAX: Final = 5
TTL_S_MAX: Final = 3
HELD_S_MAX: Final = 1.5
PAUSE_S: Final = 0.1


async def reserve(guard: Guard, publisher: Publisher, story: Story, stopping: asyncio.Event) -> None:
    """Reserve a few claims of few, again and again, until told to stop."""
    random: Random = story.random
    while not stopping.is_set():
        run = {"orgId": random.choice(ORGANISATIONS), "runId": story.uuid()}
        claims = [f"leased-{number}" for number in random.sample(range(CLAIMS), random.randint(1, CLAIMS_RESERVED_MAX))]
        request = {
            **run,
            "claimIds": claims,
            "ttlSeconds": random.randint(1, TTL_S_MAX),
            "mode": random.choice(["all-or-nothing", "available"]),
            "takeExpired": random.random() < 0.5,
        }
        _, reply = await guard.ask("reserve-claims", request)
        if reply and reply["ok"] and reply["result"]["granted"]:
            await asyncio.sleep(random.uniform(0, HELD_S_MAX))
            match random.choice(["renew", "release", "fail", "crash"]):
                case "renew":
                    await guard.ask("reserve-claims", {**request, "claimIds": reply["result"]["granted"]})
                case "release":
                    await guard.ask("release-claims", run)
                case "fail":
                    failed = story.finished(**run, status="failed", claimIds=reply["result"]["granted"])
                    failed.pop("skippedClaims", None)
                    await publisher.deliver([story.outgoing(failed, "run-finished")])
                case _:
                    pass
        await asyncio.sleep(PAUSE_S)
