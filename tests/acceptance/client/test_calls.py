"""How a call of the client waits, repeats and gives up."""

import asyncio
import sys
import time

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from export_runs_client import ExportRuns, MessageRefused, NoAnswer, Unavailable
from export_runs_client.calls import REFUSED_RETRIES_MAX
from schema import names
from tests.acceptance.client.conftest import Partner, settled
from tests.wire import WAIT_S, Wire

RELEASED = {"releasedCount": 1}


async def test_a_request_says_how_long_it_is_good_for_and_when_it_was_sent(runs: ExportRuns, partner: Partner) -> None:
    before_ms = time.time() * 1000
    release = asyncio.create_task(runs.release_claims("acme", "3c58e0d1-9f27-4b6e-a1d4-60b7c2f8e935"))
    body = await partner.take("release-claims")
    [request] = partner.taken
    assert body == {"orgId": "acme", "runId": "3c58e0d1-9f27-4b6e-a1d4-60b7c2f8e935"}
    assert isinstance(request.expiration, int | float)
    assert 0 < request.expiration <= WAIT_S
    sent_ms = request.headers["timestamp_in_ms"]
    assert isinstance(sent_ms, int)
    assert before_ms - 1 <= sent_ms <= time.time() * 1000
    assert request.timestamp is not None
    await partner.answer(ok=True, result=RELEASED)
    assert (await release).released_count == 1


async def test_no_answer_is_never_unexported(amqp_url: str, partner: Partner) -> None:
    async with ExportRuns.connect(amqp_url, timeout_s=0.3) as runs:
        with pytest.raises(NoAnswer, match=r"check-claims: no answer within 0\.3 s: is a worker running"):
            await runs.check_claims("acme", ["taxi-17"])


async def test_an_answer_that_is_none_of_the_contract_is_no_answer(runs: ExportRuns, partner: Partner) -> None:
    check = asyncio.create_task(runs.check_claims("acme", ["taxi-17"]))
    await partner.take("check-claims")
    await partner.answer(ok=True, result={"unexported": ["taxi-17"]})
    with pytest.raises(NoAnswer, match="not one of this contract"):
        await check


async def test_an_answer_that_came_too_late_is_not_taken_for_the_next(amqp_url: str, partner: Partner) -> None:
    async with ExportRuns.connect(amqp_url, timeout_s=WAIT_S) as runs:
        first = asyncio.create_task(runs.check_claims("acme", ["taxi-17"]))
        await partner.take("check-claims")
        first.cancel()
        await settled(first)
        second = asyncio.create_task(runs.release_claims("acme", "3c58e0d1-9f27-4b6e-a1d4-60b7c2f8e935"))
        await partner.answer(ok=True, result={"exported": [], "reserved": [], "unexported": ["taxi-17"]})
        await partner.take("release-claims")
        await partner.answer(ok=True, result=RELEASED)
        assert (await second).released_count == 1


async def test_unavailable_is_asked_once_more(runs: ExportRuns, partner: Partner) -> None:
    release = asyncio.create_task(runs.release_claims("acme", "3c58e0d1-9f27-4b6e-a1d4-60b7c2f8e935"))
    first = await partner.take("release-claims")
    await partner.refuse("UNAVAILABLE")
    assert await partner.take("release-claims") == first
    assert partner.taken[0].message_id != partner.taken[1].message_id
    await partner.answer(ok=True, result=RELEASED)
    assert (await release).released_count == 1


@pytest.fixture
async def full(wire: Wire) -> AbstractQueue:
    """A full queue, bound beside the partner's: RabbitMQ refuses requests to release, though the partner has them."""
    queue = await wire.channel.declare_queue(
        exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    await wire.channel.default_exchange.publish(aio_pika.Message(b""), queue.name)
    await queue.bind(names.RPC_EXCHANGE, "release-claims")
    return queue


async def test_a_request_that_the_broker_refuses_is_sent_again(
    runs: ExportRuns, partner: Partner, full: AbstractQueue
) -> None:
    release = asyncio.create_task(runs.release_claims("acme", "3c58e0d1-9f27-4b6e-a1d4-60b7c2f8e935"))
    first = await partner.take("release-claims")
    for _ in range(REFUSED_RETRIES_MAX - 1):
        assert await partner.take("release-claims") == first
    await full.purge()
    assert await partner.take("release-claims") == first
    await partner.answer(ok=True, result=RELEASED)
    assert (await release).released_count == 1


async def test_a_request_that_the_broker_refuses_each_time_is_an_exception(
    runs: ExportRuns, partner: Partner, full: AbstractQueue
) -> None:
    with pytest.raises(MessageRefused):
        await runs.release_claims("acme", "3c58e0d1-9f27-4b6e-a1d4-60b7c2f8e935")
    assert await partner.wire.count_in("export-runs.rpc.release-claims") == 1 + REFUSED_RETRIES_MAX


async def test_unavailable_twice_is_an_exception(runs: ExportRuns, partner: Partner) -> None:
    check = asyncio.create_task(runs.check_claims("acme", ["taxi-17"]))
    for _ in range(2):
        await partner.take("check-claims")
        await partner.refuse("UNAVAILABLE")
    with pytest.raises(Unavailable):
        await check


async def test_a_clock_that_is_wrong_is_not_asked_again(runs: ExportRuns, partner: Partner) -> None:
    check = asyncio.create_task(runs.check_claims("acme", ["taxi-17"]))
    await partner.take("check-claims")
    await partner.refuse("UNAVAILABLE", {"field": "timestamp", "message": "check your clock"})
    with pytest.raises(Unavailable, match="timestamp: check your clock"):
        await check


async def test_what_is_not_safe_to_repeat_is_sent_once(runs: ExportRuns, partner: Partner) -> None:
    resolve = asyncio.create_task(runs.resolve_double_export("acme", "taxi-17", "bob", "the money came back"))
    await partner.take("resolve-double-export")
    await partner.refuse("UNAVAILABLE")
    with pytest.raises(Unavailable):
        await resolve


async def test_a_run_without_an_id_gets_one_that_a_repetition_keeps(runs: ExportRuns, partner: Partner) -> None:
    create = asyncio.create_task(runs.create_export_run("acme", "alice", "csv"))
    first = await partner.take("create-export-run")
    await partner.refuse("UNAVAILABLE")
    assert (await partner.take("create-export-run"))["runId"] == first["runId"]
    create.cancel()
    await settled(create)


async def test_a_request_belongs_to_the_trace_of_its_caller(runs: ExportRuns, partner: Partner) -> None:
    span = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, TraceFlags(1))
    with trace.use_span(NonRecordingSpan(span)):
        call = asyncio.create_task(runs.check_claims("org-1", ["c-1"]))
    await partner.take("check-claims")
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert partner.taken[-1].headers["traceparent"] == traceparent
    await partner.refuse("INTERNAL")
    await settled(call)
    assert call.exception() is not None
    alone = asyncio.create_task(runs.check_claims("org-1", ["c-1"]))
    await partner.take("check-claims")
    assert "traceparent" not in partner.taken[-1].headers
    await partner.refuse("INTERNAL")
    await settled(alone)
    assert alone.exception() is not None


async def test_the_client_needs_no_opentelemetry() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.trace'] = None; "
        "from export_runs_client import links; print(links._PROPAGATOR)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"None\n")
