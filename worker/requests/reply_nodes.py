"""Which direct reply-to addresses RabbitMQ can decode. A trial finds it out on a connection of its own.

Some old versions crash on an address that names a node which does not run, or a process that their Erlang cannot have:
they close the connection that sent the reply. A client cannot learn which nodes there are. So on these versions each
node is tried once, on a connection of its own, before a reply of ours goes there.
"""

import asyncio
import re
from collections import OrderedDict
from typing import Final, TypeVar

import structlog

from worker.broker.link import CALL_TIMEOUT_S, CONNECTION_ERRORS, LinkOpener
from worker.limits import WorkerLimits
from worker.requests.reply_addresses import ReplyAddress, direct_reply_to
from worker.settings import BrokerSettings

FIRST_SOUND_PATCHES: Final = {(3, 9): 27, (3, 10): 12, (3, 11): 4}
"""From this patch of a minor version on RabbitMQ drops a reply whose address it cannot decode. All later ones do."""

Value = TypeVar("Value")

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class ReplyNodes:
    """Knows the nodes that RabbitMQ can decode the addresses of, and asks about others, one at a time."""

    def __init__(self, settings: BrokerSettings, open_link: LinkOpener, limits: WorkerLimits) -> None:
        self._settings = settings
        self._open_link = open_link
        self._limits = limits
        self._decodes_all = False
        self._known: OrderedDict[int, None] = OrderedDict()
        self._refused_until: OrderedDict[int, float] = OrderedDict()
        self._trials: dict[int, asyncio.Task[bool]] = {}
        self._one_at_a_time = asyncio.Lock()

    def knows(self, address: ReplyAddress) -> bool:
        """Whether it is known that RabbitMQ can decode an address."""
        if self._decodes_all or address.node_hash is None:
            return True
        if address.node_hash not in self._known:
            return False
        self._known.move_to_end(address.node_hash)
        return address.has_short_numbers

    def forget(self) -> None:
        """Find out anew: a node that stopped may be why a connection was lost, and the next may be to another."""
        self._decodes_all = False
        self._known.clear()

    async def find(self, address: ReplyAddress) -> bool:
        """Whether RabbitMQ can decode an address. False, too, while too many nodes are in question.

        Raises one of CONNECTION_ERRORS where that cannot be found out now.
        """
        node_hash = address.node_hash
        if node_hash is None or self._decodes_all or node_hash in self._known:
            return self.knows(address)
        if asyncio.get_running_loop().time() < self._refused_until.get(node_hash, 0):
            return False
        trial = self._trials.get(node_hash)
        if trial is None:
            if len(self._trials) >= self._limits.reply_node_trials_max:
                return False
            trial = self._trials[node_hash] = asyncio.create_task(self._try_in_turn(node_hash))
            trial.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(trial) and self.knows(address)

    async def _try_in_turn(self, node_hash: int) -> bool:
        found = False
        try:
            async with self._one_at_a_time:
                try:
                    found = self._decodes_all or await self._try(node_hash)
                finally:
                    if not found:  # whoever invents nodes keeps neither the broker nor this worker busy
                        await asyncio.sleep(self._limits.reply_node_pause_s)
        finally:
            del self._trials[node_hash]
        return found

    async def _try(self, node_hash: int) -> bool:
        purpose = "trying a reply address"
        async with self._open_link(self._settings, purpose, lambda reason: None) as link:
            if decodes_all_addresses(link.underlay.connection.server_properties.get("version")):
                self._decodes_all = True
                return True
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await link.underlay.basic_publish(b"", routing_key=direct_reply_to(node_hash))
                    await link.underlay.basic_qos(prefetch_count=1)  # answered when the address has been decoded
            except TimeoutError:
                raise  # the broker is short of memory, perhaps: that says nothing about the node
            except CONNECTION_ERRORS:
                refused_until = asyncio.get_running_loop().time() + self._limits.reply_node_refused_s
                self._remember(self._refused_until, node_hash, refused_until)
                log.warning("reply_node_unknown", node_hash=node_hash)
                return False
        self._remember(self._known, node_hash, None)
        return True

    def _remember(self, nodes: "OrderedDict[int, Value]", node_hash: int, value: Value) -> None:
        nodes[node_hash] = value
        nodes.move_to_end(node_hash)
        while len(nodes) > self._limits.reply_nodes_max:
            nodes.popitem(last=False)


def decodes_all_addresses(version: object) -> bool:
    """Whether this version of RabbitMQ survives every direct address of the right form. An unknown version does."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", str(version))
    if numbers is None:
        return True
    major, minor, patch = map(int, numbers.groups())
    if (major, minor) > max(FIRST_SOUND_PATCHES):
        return True
    return patch >= FIRST_SOUND_PATCHES.get((major, minor), patch + 1)
