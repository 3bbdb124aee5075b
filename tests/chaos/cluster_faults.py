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
from tests.cluster import resume

QUORUM_TIMEOUT_S: Final = 120
CUT_S_MIN, CUT_S_MAX = 1.0, 12.0
"""A node notices after 3 to 5 s that it no longer hears of another."""

NETWORK_CUT: Final = "network between two nodes cut"
"""The kind that needs a network of its own."""


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
            await self._start_nodes()
            node = self._random.choice(system.nodes)
            await self._until_dispensable(node)
            await asyncio.to_thread(node.kill)
        return time.monotonic()

    async def _network_cut(self) -> float:
        """Part two nodes that both reach the third. Both may pause until they reach each other again."""
        system = self._system
        assert system.network is not None
        async with system.broker_lock:
            await self._start_nodes()
            one, other = self._random.sample(system.network.hosts, 2)
            for node in system.nodes:
                await self._until_dispensable(node)
            with system.network.cut(one, other):
                await asyncio.sleep(self._random.uniform(CUT_S_MIN, CUT_S_MAX))
        return time.monotonic()

    async def _start_nodes(self) -> None:
        for node in self._system.nodes:
            if not node.is_running:
                await asyncio.to_thread(node.start)
            await asyncio.to_thread(resume, node)

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
        NETWORK_CUT: _network_cut,
        "standby promoted": _standby_promoted,
    }


OTHER_KINDS: Final = ("worker killed", "all workers killed", "worker terminated", "database connections terminated")


def kinds_with_a_cluster(*, has_network: bool) -> list[str]:
    """What a campaign with a cluster breaks, if nothing else is asked for."""
    return [kind for kind in (*ClusterFaults.kinds, *OTHER_KINDS) if has_network or kind != NETWORK_CUT]
