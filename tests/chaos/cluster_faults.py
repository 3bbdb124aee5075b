"""The faults of a cluster. Each takes something away for good: what is left must serve. The next one brings it back."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import ClassVar, Final

from local.rabbitmq import LocalRabbitMQ
from tests.chaos.standby import Standby
from tests.chaos.system import SystemUnderTest

QUORUM_TIMEOUT_S: Final = 120


class ClusterFaults:
    """Breaks a system whose broker has three nodes, and whose workers know the primary and its standby."""

    def __init__(self, system: SystemUnderTest, random: Random) -> None:
        self._system = system
        self._random = random

    async def inject(self, kind: str) -> float:
        """Make one fault. Returns the time from which on the service has all that it needs."""
        return await self.kinds[kind](self)

    async def _node_killed(self) -> float:
        system = self._system
        async with system.broker_lock:
            for node in system.nodes:
                if not node.is_running:
                    await asyncio.to_thread(node.start)
            node = self._random.choice(system.nodes)
            await self._until_dispensable(node)
            await asyncio.to_thread(node.kill)
        return time.monotonic()

    async def _until_dispensable(self, node: LocalRabbitMQ) -> None:
        """Wait until each queue has a majority without this node."""
        process = await asyncio.create_subprocess_exec(
            *node.command("rabbitmq-upgrade", "-q", "await_online_quorum_plus_one", "-t", str(QUORUM_TIMEOUT_S)),
            env=node.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        assert await process.wait() == 0

    async def _standby_promoted(self) -> float:
        system = self._system
        async with system.database_lock:
            await self._make_standby()
            system.lost_primary = system.database
            await asyncio.to_thread(system.lost_primary.kill)
            system.database = await system.standby.promote()
        return time.monotonic()

    async def _make_standby(self) -> None:
        """Make a standby, in the place of the primary that was lost. Every commit waits for it from then on."""
        system, lost = self._system, self._system.lost_primary
        if lost is None:
            return
        system.keep_log(lost)
        await asyncio.to_thread(lost.close)
        system.standby, system.lost_primary = Standby(system.database, lost.port), None
        await system.standby.start()

    kinds: ClassVar[Mapping[str, Callable[["ClusterFaults"], Awaitable[float]]]] = {
        "broker node killed": _node_killed,
        "standby promoted": _standby_promoted,
    }


WITH_A_CLUSTER: Final = (
    *ClusterFaults.kinds,
    "worker killed",
    "all workers killed",
    "worker terminated",
    "database connections terminated",
)
"""What a campaign with a cluster breaks, if nothing else is asked for."""
