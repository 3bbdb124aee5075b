"""How long a request waited before a worker took it counts as well: nothing is done for a caller that is gone."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from sql.connection import Connection
from tests.resilience.locks import locked
from tests.resilience.observing import until, until_serving
from tests.wire import Json, Wire
from worker.routes import ROUTES
from worker.settings import WorkerSettings

pytestmark = pytest.mark.usefixtures("worker")

HELD_MAX = next(route.held_max for route in ROUTES.requests if route.operation.name == "reserve-claims")


def reservation(claim_id: str) -> Json:
    """A reservation by a run of its own."""
    return {"orgId": "org-1", "runId": str(uuid4()), "claimIds": [claim_id]}


def exactly(published_at: datetime) -> dict[str, Any]:
    """What RabbitMQ adds, if it is configured so."""
    return {"headers": {"timestamp_in_ms": round(published_at.timestamp() * 1_000)}}


def in_seconds(published_at: datetime) -> dict[str, Any]:
    """What a client may add."""
    return {"timestamp": published_at}


async def leases(connection: Connection, claim_id: str) -> int:
    """How many there are of a claim."""
    count: int = await connection.fetchval("SELECT count(*) FROM claim_leases WHERE claim_id = $1", claim_id)
    return count


@pytest.mark.parametrize("said", [exactly, in_seconds], ids=["by RabbitMQ", "by the client"])
async def test_a_request_that_waited_in_the_queue(
    settings: WorkerSettings, wire: Wire, connection: Connection, said: Any
) -> None:
    """It reached the worker when half of its time was over, which then gave it all of its time once more."""
    await until_serving(wire)
    async with locked(settings.database_url.get_secret_value(), "claim_leases"):
        asked_at = time.monotonic()
        before = [
            asyncio.create_task(wire.ask("reserve-claims", reservation(f"before-{number}"), expiration=4))
            for number in range(HELD_MAX)
        ]
        await until(lambda: all_delivered(wire))
        late = asyncio.create_task(
            wire.ask("reserve-claims", reservation("late"), expiration=8, **said(datetime.now(UTC)))
        )
        assert {(await each)["error"]["code"] for each in before} == {"UNAVAILABLE"}
        assert (await late)["error"]["code"] == "UNAVAILABLE"
        assert time.monotonic() - asked_at < 9.5
    await until_serving(wire)
    assert await leases(connection, "late") == 0


async def all_delivered(wire: Wire) -> bool:
    """Whether no request waits in the queue."""
    return await wire.count_in("export-runs.rpc.reserve-claims") == 0


@pytest.mark.parametrize("said", [exactly, in_seconds], ids=["by RabbitMQ", "by the client"])
async def test_a_request_that_is_too_old_is_not_done(wire: Wire, connection: Connection, said: Any) -> None:
    """Its caller, if it is there after all, hears why: perhaps its clock is wrong."""
    await until_serving(wire)
    for operation, body in (
        ("reserve-claims", reservation("old")),
        ("check-claims", {"orgId": "org-1", "claimIds": ["old"]}),
    ):
        error = await wire.error(operation, body, expiration=5, **said(datetime.now(UTC) - timedelta(seconds=7)))
        assert error["code"] == "UNAVAILABLE"
        assert [detail["field"] for detail in error["details"]] == ["timestamp"]
    assert await leases(connection, "old") == 0


@pytest.mark.parametrize("said", [exactly, in_seconds], ids=["by RabbitMQ", "by the client"])
@pytest.mark.parametrize("hours", [0, 0.1, 24, -24, -20 * 365 * 24], ids=lambda hours: f"{hours} hours from now")
async def test_a_time_that_cannot_be_that_of_publishing_is_ignored(wire: Wire, said: Any, hours: float) -> None:
    """As if there were none: the time counts from when the worker takes the request."""
    await until_serving(wire)
    await assert_answered(wire, said(datetime.now(UTC) + timedelta(hours=hours)))


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, "now", True, None], ids=str)
async def test_what_is_no_time_is_ignored(wire: Wire, value: object) -> None:
    await until_serving(wire)
    await assert_answered(wire, {"headers": {"timestamp_in_ms": value}})


async def assert_answered(wire: Wire, properties: dict[str, Any]) -> None:
    """A request with these properties is answered."""
    reply = await wire.ask("check-claims", {"orgId": "org-1", "claimIds": ["c-1"]}, expiration=10, **properties)
    assert reply["ok"] is True
