"""Many clients at the same time: no claim has two holders, and every client gets its turn."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest

from sql.connection import Connection
from tests.conftest import connected
from tests.integration.double_exports.conftest import double_exported_runs
from tests.integration.reservations.conftest import expire, finish, holders, release, reserve
from tests.wire import POLL_S, WAIT_S

CLIENTS = 8
CLAIMS = [f"c-{number}" for number in range(10)]
ROUNDS = 8
PAUSE_S_MAX = 0.4


@dataclass
class Ledger:
    """The answers that the clients have had, so that a wrong one is noticed.

    Leases expire between two rounds only, while no client asks. A lease is `live` from the answer that grants it until
    its holder begins to end it. It is `possible` from the request until it has certainly ended.
    """

    live: dict[str, UUID] = field(default_factory=dict)
    possible: dict[str, set[UUID]] = field(default_factory=lambda: {claim_id: set() for claim_id in CLAIMS})
    requests: list[tuple[str, UUID]] = field(default_factory=list)
    expired: dict[str, UUID] = field(default_factory=dict)
    ending: set[UUID] = field(default_factory=set)
    open_requests: Counter[tuple[str, UUID]] = field(default_factory=Counter)
    export_attempts: set[tuple[str, UUID]] = field(default_factory=set)
    exports: set[tuple[str, UUID]] = field(default_factory=set)

    async def reserve(self, connection: Connection, run_id: UUID, claim_ids: Sequence[str], **fields: Any) -> list[str]:
        """Reserve claims, and judge the answer."""
        before = {claim_id: set(self.possible[claim_id]) for claim_id in claim_ids}
        had = {claim_id for claim_id in claim_ids if run_id in before[claim_id]}
        expired, exported = dict(self.expired), {claim_id for claim_id, _ in self.exports}
        position = len(self.requests)
        for claim_id in claim_ids:
            self.possible[claim_id].add(run_id)
            self.requests.append((claim_id, run_id))
            self.open_requests[claim_id, run_id] += 1
        answer = await reserve(connection, run_id, *claim_ids, **fields)
        for claim_id in claim_ids:
            self.open_requests[claim_id, run_id] -= 1
        for claim_id, by in self.requests[position:]:
            before.setdefault(claim_id, set()).add(by)
        refused = [each.claim_id for each in answer.conflicts]
        if refused and fields["mode"] == "all-or-nothing":
            assert answer.granted == []
        else:
            assert sorted(answer.granted + refused) == sorted(claim_ids)
        for claim_id in answer.granted:
            assert self.live.get(claim_id, run_id) == run_id, "granted, and another run holds it"
            assert claim_id not in exported, "granted, and another run has exported it"
            previous = self.expired.get(claim_id, run_id)
            is_free = previous == run_id or expired.get(claim_id) != previous or previous in self.ending
            assert is_free or fields["takeExpired"], "granted without takeExpired, and another run has an expired lease"
            self.live[claim_id] = run_id
            previous = self.expired.pop(claim_id, run_id)
            if previous != run_id and not self.open_requests[claim_id, previous]:
                self.possible[claim_id].discard(previous)
        for each in answer.conflicts:
            real = {
                "reserved": each.run_id in before[each.claim_id] - {run_id},
                "expired": expired.get(each.claim_id) == each.run_id != run_id and not fields["takeExpired"],
                "exported": (each.claim_id, each.run_id) in self.export_attempts,
            }
            assert real[each.reason.value], f"{each} is not true"
        for claim_id in set(claim_ids) - had - set(answer.granted):
            self.possible[claim_id].discard(run_id)
        return answer.granted

    async def end(self, run_id: UUID, ending: Awaitable[Any], exported: Sequence[str] = ()) -> None:
        """End a run: it frees its claims, and has exported some of them."""
        self.live = {claim_id: by for claim_id, by in self.live.items() if by != run_id}
        self.ending.add(run_id)
        self.export_attempts |= {(claim_id, run_id) for claim_id in exported}
        await ending
        self.exports |= {(claim_id, run_id) for claim_id in exported}
        self.expired = {claim_id: by for claim_id, by in self.expired.items() if by != run_id}
        for runs in self.possible.values():
            runs.discard(run_id)

    async def pass_time(self, connection: Connection, run_ids: Sequence[UUID]) -> None:
        """Let the leases of these runs expire, while no client asks. The table must then agree with all answers."""
        if run_ids:
            await expire(connection, *run_ids)
        for claim_id, run_id in list(self.live.items()):
            if run_id in run_ids:
                self.expired[claim_id] = self.live.pop(claim_id)
        assert await holders(connection) == dict(sorted((self.live | self.expired).items()))
        rows = await connection.fetch("SELECT claim_id FROM claim_leases WHERE expires_at <= clock_timestamp()")
        assert {row["claim_id"] for row in rows} == set(self.expired)


async def client(ledger: Ledger, connection: Connection, random: Random, runs: list[UUID]) -> None:
    """One round of a client: it reserves claims, then finishes, fails, releases them, keeps them, or crashes."""
    for _ in range(2):
        run_id = runs[-1]
        claim_ids = random.sample(CLAIMS, random.randint(1, 4))
        granted = await ledger.reserve(
            connection,
            run_id,
            claim_ids,
            mode=random.choice(["all-or-nothing", "available"]),
            takeExpired=random.random() < 0.5,
        )
        ending = random.choice(["keep", "crash", "release", "fail", "finish", "finish late"])
        if ending == "release":
            await ledger.end(run_id, release(connection, run_id))
        elif ending == "fail":
            await ledger.end(run_id, finish(connection, run_id, "failed", *claim_ids))
            runs.append(uuid4())
        elif ending == "finish" and granted and random.random() < 0.3:
            await ledger.end(run_id, finish(connection, run_id, "partial", granted[0]), granted[:1])
            runs.append(uuid4())
        elif ending == "crash":
            runs.append(uuid4())
        elif ending == "finish late" and len(runs) > 1 and random.random() < 0.3:
            # The others took this run for dead, and it exports a claim all the same.
            claim_ids = random.sample(CLAIMS, 1)
            await ledger.end(runs[0], finish(connection, runs[0], "completed", *claim_ids), claim_ids)
            runs.append(uuid4())
            runs.pop(0)


@asynccontextmanager
async def many(database_url: str, count: int) -> AsyncIterator[list[Connection]]:
    """Connections with the worker's own settings, time-outs included."""
    connections = await asyncio.gather(*(connected(database_url) for _ in range(count)))
    try:
        yield list(connections)
    finally:
        for connection in connections:
            connection.terminate()
        await asyncio.sleep(POLL_S)  # until the sockets are closed


@pytest.mark.parametrize("seed", range(4))
async def test_no_claim_has_two_live_holders_whatever_the_clients_do(database_url: str, seed: int) -> None:
    """They reserve, crash, finish and fail at the same time. Each answer is judged by what was certain then."""
    ledger, random = Ledger(), Random(seed)
    async with many(database_url, CLIENTS) as connections:
        runs = [[uuid4()] for _ in connections]
        randoms = [Random(random.random()) for _ in connections]
        for _ in range(ROUNDS):
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*(client(ledger, *each) for each in zip(connections, randoms, runs, strict=True)))
            crashed = [run_id for of_client in runs for run_id in of_client[:-1]]
            slow = [of_client[-1] for of_client in runs if random.random() < 0.3]
            await ledger.pass_time(connections[0], crashed + slow)
        await ledger.pass_time(connections[0], list(ledger.live.values()))
        left = [claim_id for claim_id in CLAIMS if claim_id not in {claim_id for claim_id, _ in ledger.exports}]
        everything = await reserve(connections[0], uuid4(), *CLAIMS, mode="available", takeExpired=True)
        assert everything.granted == left
        double_exports = await double_exported_runs(connections[0])
    exporters = {claim_id: {run_id for each, run_id in ledger.exports if each == claim_id} for claim_id in CLAIMS}
    assert double_exports == {claim_id: run_ids for claim_id, run_ids in exporters.items() if len(run_ids) > 1}


async def test_each_of_64_clients_that_contend_for_100_claims_gets_its_turn(database_url: str) -> None:
    claim_ids = [f"c-{number}" for number in range(100)]
    tokens: list[int] = []

    async def take_a_turn(number: int, connection: Connection) -> None:
        run_id, random = uuid4(), Random(number)
        while not (answer := await reserve(connection, run_id, *random.sample(claim_ids, 100))).granted:
            assert len(answer.conflicts) == 100
            await asyncio.sleep(random.uniform(0, PAUSE_S_MAX))
        assert answer.fencing_token is not None
        tokens.append(answer.fencing_token)
        await release(connection, run_id) if number % 2 else await finish(connection, run_id, "failed", *claim_ids)

    async with many(database_url, 64) as connections, asyncio.timeout(WAIT_S):
        await asyncio.gather(*(take_a_turn(*each) for each in enumerate(connections)))
        assert await holders(connections[0]) == {}
    assert len(tokens) == 64
    assert tokens == sorted(tokens)
