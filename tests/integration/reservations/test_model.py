"""Reservations and reversals do the same as a model of them in plain Python, step by step."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from handlers.claims import check_claims
from handlers.errors import RequestRefused
from schema.errors import ErrorCode
from schema.events import RunFinished, RunStatus
from schema.requests import CheckClaims
from sql.connection import Connection
from tests.conftest import cloned_database
from tests.integration.double_exports.conftest import double_exported_runs
from tests.integration.requests import create, delete
from tests.integration.reservations.conftest import OVERRIDE, end_event, expire, release, reserve
from tests.integration.reversals.conftest import reverse
from tests.model import double_exports_of
from tests.storing import store_finished

CLAIMS = ["a", "b", "c"]
RUNS = 3
REVERSALS_MAX = 4
"""After these no more are made on purpose: a double export shows its first 10 runs, and here all are compared."""

runs = st.integers(0, RUNS - 1)
few_claims = st.lists(st.sampled_from(CLAIMS), min_size=1, max_size=3, unique=True)


@dataclass
class Lease:
    """A lease of one claim."""

    run_id: UUID
    token: int
    expired: bool = False


@dataclass
class Model:
    """What the contract promises after each step."""

    leases: dict[str, Lease] = field(default_factory=dict)
    exports: dict[str, set[UUID]] = field(default_factory=lambda: {claim_id: set() for claim_id in CLAIMS})
    reversals: dict[tuple[UUID, str], bool] = field(default_factory=dict)  # by run and claim: was it the whole run?
    overrides: set[tuple[UUID, str, UUID]] = field(default_factory=set)
    later_grants: set[tuple[UUID, str, UUID]] = field(default_factory=set)
    ends: list[RunFinished] = field(default_factory=list)
    known: set[UUID] = field(default_factory=set)
    ended: set[UUID] = field(default_factory=set)
    deleted: set[UUID] = field(default_factory=set)
    taken_entries: int = 0
    withdrawals: int = 0
    last_token: int = 0

    def obstacle(self, run_id: UUID, claim_id: str, *, override: bool, take_expired: bool) -> str | None:
        """Why a run may not have a claim, or None if it may."""
        lease = self.leases.get(claim_id)
        if self.exports[claim_id] and not override:
            return "exported"
        if lease is None or lease.run_id == run_id:
            return None
        if lease.expired:
            return None if take_expired else "expired"
        return "reserved"

    def grant(self, run_id: UUID, granted: list[str], token: int) -> None:
        """Lease claims to a run. It keeps its token if it has all of them already."""
        before = [self.leases.get(claim_id) for claim_id in granted]
        tokens = [lease.token for lease in before if lease is not None and lease.run_id == run_id]
        assert token == max(tokens) if len(tokens) == len(granted) else token > self.last_token
        self.last_token = max(token, self.last_token)
        overrides = {(run_id, claim_id, earlier) for claim_id in granted for earlier in self.exports[claim_id]}
        taken = any(lease is not None and lease.run_id != run_id for lease in before)
        # To renew a lease is no new grant.
        new = [each for each, lease in zip(granted, before, strict=True) if lease is None or lease.run_id != run_id]
        later_grants = {(run_id, claim_id, other) for other, claim_id in self.reversals if claim_id in new}
        self.taken_entries += taken or not (overrides <= self.overrides and later_grants <= self.later_grants)
        self.overrides |= overrides
        self.later_grants |= later_grants
        self.leases |= {claim_id: Lease(run_id, token) for claim_id in granted}

    def free(self, run_id: UUID, claim_ids: list[str]) -> int:
        """Free what a run holds of these claims."""
        mine = [each for each in claim_ids if each in self.leases and self.leases[each].run_id == run_id]
        for claim_id in mine:
            del self.leases[claim_id]
        return len(mine)

    def give_back(self, run_id: UUID, claim_ids: list[str]) -> int:
        """Free what a run holds of these claims, and withdraw what allowed it to export them again."""
        mine = [each for each in claim_ids if each in self.leases and self.leases[each].run_id == run_id]
        allowed = self.overrides | self.later_grants
        withdrawn = {each for each in allowed if each[0] == run_id and each[1] in mine}
        self.withdrawals += bool(withdrawn)
        self.overrides -= withdrawn
        self.later_grants -= withdrawn
        return self.free(run_id, claim_ids)

    def finish(self, event: RunFinished) -> None:
        """End a run: it exports its claims, unless it failed, and frees the others."""
        run_id = event.run_id
        self.ends.append(event)
        self.known.add(run_id)
        self.ended.add(run_id)
        self.free(run_id, CLAIMS)
        for claim_id in event.claim_ids if event.status != RunStatus.FAILED else []:
            if (run_id, claim_id) not in self.reversals:
                self.exports[claim_id].add(run_id)

    def reverse(self, run_id: UUID, claim_ids: list[str] | None) -> list[str] | None:
        """Take back exports of a run, these or all; returns the answer, or None for a conflict."""
        exported = [claim_id for claim_id in CLAIMS if run_id in self.exports[claim_id]]
        if claim_ids is None:
            repeated = [
                claim_id for (other, claim_id), of_whole in self.reversals.items() if other == run_id and of_whole
            ]
            if repeated:
                return sorted(repeated)
            answer = exported
        else:
            if any(each not in exported and (run_id, each) not in self.reversals for each in claim_ids):
                return None
            answer = claim_ids
        for claim_id in answer:
            self.exports[claim_id].discard(run_id)
            self.reversals.setdefault((run_id, claim_id), claim_ids is None)
        return answer or None


class Reservations(RuleBasedStateMachine):
    """Does the same with the service and with the model. Each example has an organisation of its own."""

    loop: asyncio.AbstractEventLoop
    connection: Connection

    def __init__(self) -> None:
        super().__init__()
        self.org_id = str(uuid4())
        self.runs = [uuid4() for _ in range(RUNS)]
        self.model = Model()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def half_of_the_runs_are_known(self) -> None:
        for run_id in self.runs[: RUNS // 2]:
            self.run(create(self.connection, runId=run_id, orgId=self.org_id))
            self.model.known.add(run_id)

    @rule(
        number=runs,
        claim_ids=few_claims,
        mode=st.sampled_from(["all-or-nothing", "available"]),
        override=st.booleans(),
        take_expired=st.booleans(),
        is_new=st.booleans(),
    )
    def reserve(
        self, number: int, claim_ids: list[str], mode: str, override: bool, take_expired: bool, is_new: bool
    ) -> None:
        if is_new and self.runs[number] in self.model.ended:
            self.replace(number)
        run_id = self.runs[number]
        fields = {"orgId": self.org_id, "mode": mode, "takeExpired": take_expired}
        request = reserve(self.connection, run_id, *claim_ids, **fields, override=OVERRIDE if override else None)
        if run_id in self.model.ended:
            with pytest.raises(RequestRefused) as raised:
                self.run(request)
            assert raised.value.code is ErrorCode.CONFLICT
            return
        answer = self.run(request)
        obstacles = {
            claim_id: self.model.obstacle(run_id, claim_id, override=override, take_expired=take_expired)
            for claim_id in claim_ids
        }
        free = [claim_id for claim_id in claim_ids if obstacles[claim_id] is None]
        granted = free if mode == "available" or len(free) == len(claim_ids) else []
        assert answer.granted == granted
        assert [(each.claim_id, each.reason.value) for each in answer.conflicts] == [
            (claim_id, obstacle) for claim_id, obstacle in obstacles.items() if obstacle is not None
        ]
        for each in answer.conflicts:
            by = self.model.exports[each.claim_id]
            assert each.run_id in (by if each.reason == "exported" else {self.model.leases[each.claim_id].run_id})
        assert (answer.fencing_token is None) == (answer.expires_at is None) == (not granted)
        if granted:
            self.model.grant(run_id, granted, answer.fencing_token)

    @rule(number=runs, claim_ids=few_claims)
    def reserve_what_is_free(self, number: int, claim_ids: list[str]) -> None:
        """Most reservations with other fields, for any run, are refused."""
        self.reserve(number, claim_ids, "available", override=False, take_expired=False, is_new=True)

    @rule(number=runs, claim_ids=st.none() | few_claims)
    def release(self, number: int, claim_ids: list[str] | None) -> None:
        run_id = self.runs[number]
        freed = self.run(release(self.connection, run_id, *(claim_ids or []), orgId=self.org_id))
        assert freed == self.model.give_back(run_id, claim_ids or CLAIMS)

    @rule(
        number=runs,
        status=st.sampled_from(["failed", "partial", "completed"]),
        claim_ids=st.lists(st.sampled_from(CLAIMS), max_size=3),
    )
    def finish(self, number: int, status: str, claim_ids: list[str]) -> None:
        event = end_event(self.runs[number], status, *claim_ids, orgId=self.org_id)
        self.run(store_finished(self.connection, [event]))
        self.model.finish(event)

    @rule(number=runs, claim_ids=st.none() | few_claims)
    def reverse(self, number: int, claim_ids: list[str] | None) -> None:
        run_id = self.runs[number]
        request = reverse(self.connection, run_id, *(claim_ids or []), orgId=self.org_id)
        answer = self.model.reverse(run_id, claim_ids) if run_id in self.model.known else None
        if answer is not None:
            assert self.run(request) == answer
            return
        with pytest.raises(RequestRefused) as raised:
            self.run(request)
        assert raised.value.code is (ErrorCode.CONFLICT if run_id in self.model.known else ErrorCode.RUN_NOT_FOUND)

    @precondition(lambda self: len(self.model.reversals) < REVERSALS_MAX)
    @rule(number=runs, claim_ids=few_claims)
    def export_and_reverse(self, number: int, claim_ids: list[str]) -> None:
        """Steps by chance seldom come to what follows a reversal."""
        self.replace(number)
        self.finish(number, "completed", claim_ids)
        self.reverse(number, claim_ids)

    def replace(self, number: int) -> None:
        """Put a new run in the place of another. Otherwise all runs would soon have ended."""
        self.runs[number] = uuid4()

    @rule(number=runs)
    def delete(self, number: int) -> None:
        run_id = self.runs[number]
        holds = any(lease.run_id == run_id and not lease.expired for lease in self.model.leases.values())
        deleted = run_id in self.model.deleted
        if run_id in self.model.known and (deleted or not holds):
            self.model.deleted.add(run_id)
            self.run(delete(self.connection, run_id))
            self.model.ended.add(run_id)
            self.model.give_back(run_id, CLAIMS)
            return
        with pytest.raises(RequestRefused) as raised:
            self.run(delete(self.connection, run_id))
        assert raised.value.code is (ErrorCode.CONFLICT if run_id in self.model.known else ErrorCode.RUN_NOT_FOUND)

    @rule(number=runs)
    def pass_time(self, number: int) -> None:
        self.run(expire(self.connection, self.runs[number]))
        for lease in self.model.leases.values():
            lease.expired |= lease.run_id == self.runs[number]

    @invariant()
    def the_leases_are_those_of_the_model(self) -> None:
        rows = self.rows("SELECT *, expires_at <= clock_timestamp() AS expired FROM claim_leases WHERE org_id = $1")
        assert {
            row["claim_id"]: Lease(row["run_id"], row["fencing_token"], row["expired"]) for row in rows
        } == self.model.leases

    @invariant()
    def a_check_says_what_the_model_says(self) -> None:
        [answer] = self.run(check_claims(self.connection, [CheckClaims(org_id=self.org_id, claim_ids=CLAIMS)]))
        exported = {each.claim_id: {run.run_id for run in each.runs} for each in answer.exported}
        assert exported == {claim_id: by for claim_id, by in self.model.exports.items() if by}
        assert {each.claim_id: each.run_id for each in answer.reserved} == {
            claim_id: lease.run_id for claim_id, lease in self.model.leases.items() if claim_id not in exported
        }
        listed = [*exported, *(each.claim_id for each in answer.reserved), *answer.unexported]
        assert sorted(listed) == CLAIMS

    @invariant()
    def the_double_exports_are_those_of_the_model(self) -> None:
        assert self.run(double_exported_runs(self.connection, self.org_id)) == double_exports_of(
            self.model.ends, self.model.overrides | self.model.later_grants
        )

    @invariant()
    def overrides_and_their_log_entries_are_those_of_the_model(self) -> None:
        rows = self.rows("SELECT run_id, claim_id, earlier_run_id FROM claim_overrides WHERE org_id = $1")
        assert {tuple(row) for row in rows} == self.model.overrides
        rows = self.rows("SELECT run_id, claim_id, reversed_run_id FROM reversal_grants WHERE org_id = $1")
        assert {tuple(row) for row in rows} == self.model.later_grants
        logged = self.rows("SELECT FROM export_run_events WHERE org_id = $1 AND event_type = 'claims-taken'")
        assert len(logged) == self.model.taken_entries
        logged = self.rows("SELECT FROM export_run_events WHERE org_id = $1 AND event_type = 'overrides-withdrawn'")
        assert len(logged) == self.model.withdrawals

    def rows(self, query: str) -> list[Any]:
        rows: list[Any] = self.run(self.connection.fetch(query, self.org_id))
        return rows


def test_reservations_do_the_same_as_the_model(template_url: str) -> None:
    loop = asyncio.new_event_loop()
    database = cloned_database(template_url)
    url = loop.run_until_complete(database.__aenter__())
    Reservations.loop, Reservations.connection = loop, loop.run_until_complete(asyncpg.connect(url))
    try:
        # To shrink an example takes minutes.
        phases = [Phase.reuse, Phase.generate]
        few = settings(max_examples=40, stateful_step_count=25, phases=phases)
        run_state_machine_as_test(Reservations, settings=few)
    finally:
        loop.run_until_complete(Reservations.connection.close())
        loop.run_until_complete(database.__aexit__(None, None, None))
        loop.close()
