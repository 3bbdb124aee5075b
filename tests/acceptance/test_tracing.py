"""A worker takes the trace of a message from its headers, hands it on, and sends spans of its work by OTLP."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from unittest.mock import ANY

import pytest
from aio_pika.abc import AbstractIncomingMessage
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from sql.connection import Connection
from tests.commands import WorkerProcess, worker_process
from tests.wire import POLL_S, WAIT_S, Wire, run_created, run_finished
from worker.broker.declaration import declare
from worker.settings import WorkerSettings

HOST = "127.0.0.1"
CHECK = {"orgId": "org-1", "claimIds": ["c-1"]}
STATE = "vendor=1,other=x"

NO_ALERTS = """
from worker.limits import WorkerLimits
from worker.session import WorkerParts
parts = WorkerParts(limits=WorkerLimits(alerts_interval_s=3600))
"""
"""A worker that writes alerts into the outbox and does not look there again."""


def trace_of(number: int) -> tuple[str, str, dict[str, Any]]:
    """The ids of a trace and of a span in it, and the headers of a message that this span sends."""
    trace_id, span_id = f"{number:032x}", f"{number + 1:016x}"
    return trace_id, span_id, {"traceparent": f"00-{trace_id}-{span_id}-01", "tracestate": STATE}


class Receiver:
    """The spans that came, in their order."""

    def __init__(self, port: int) -> None:
        self.variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Span]:
        """All spans so far."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def until(self, fits: Callable[[Span], bool]) -> Span:
        """Wait for a span."""
        async with asyncio.timeout(WAIT_S):
            while not (found := [span for span in self.spans if fits(span)]):
                await asyncio.sleep(POLL_S)
        return found[0]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one request of OTLP over HTTP after the other."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("post /v1/traces ")
                [length] = [line.split(":")[1] for line in head.splitlines() if line.startswith("content-length:")]
                self.requests.append(ExportTraceServiceRequest.FromString(await reader.readexactly(int(length))))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """An endpoint that takes spans."""
    server = await asyncio.start_server(lambda reader, writer: received.serve(reader, writer), HOST, 0)
    received = Receiver(server.sockets[0].getsockname()[1])
    async with server:
        yield received


@asynccontextmanager
async def serving(settings: WorkerSettings, parts: str = "", **variables: str) -> AsyncIterator[WorkerProcess]:
    """A worker that has begun to work."""
    async with worker_process(settings, parts=parts, **variables) as worker:
        if parts:
            await worker.until_logged("session_started")
        else:
            await worker.until_parts_started()
        yield worker


def attributes(span: Span) -> dict[str, Any]:
    values = {each.key: each.value for each in span.attributes}
    return {key: value.string_value or value.int_value for key, value in values.items()}


def carried(message: AbstractIncomingMessage) -> dict[str, Any]:
    """What a message says of its trace."""
    return {name: value for name, value in message.headers.items() if name in ("traceparent", "tracestate")}


def ids(trace_id: str, span_id: str) -> tuple[bytes, bytes]:
    return bytes.fromhex(trace_id), bytes.fromhex(span_id)


def links_of(span: Span) -> list[tuple[bytes, bytes]]:
    return [(link.trace_id, link.span_id) for link in span.links]


async def test_events_are_linked_from_a_span_and_a_dead_letter_belongs_to_the_trace_of_its_event(
    settings: WorkerSettings, wire: Wire, receiver: Receiver
) -> None:
    trace_id, span_id, headers = trace_of(1)
    async with serving(settings, **receiver.variables):
        for _ in range(3):
            await wire.publish("run-created", run_created(), headers=headers, message_id="m-1")
        await wire.publish("run-created", run_created())
        async with asyncio.timeout(WAIT_S):
            while sum(attributes(span)["messaging.batch.message_count"] for span in receiver.spans) < 4:
                await asyncio.sleep(POLL_S)
        bad_trace_id, bad_span_id, bad_headers = trace_of(3)
        await wire.publish("run-created", {"no": "event"}, headers=bad_headers)
        letter = await wire.take_from("export-runs.run-created.dead")
        bad = await receiver.until(lambda span: ids(bad_trace_id, bad_span_id) in links_of(span))
    assert carried(letter) == bad_headers
    assert attributes(bad)["error.type"] == "INVALID_EVENT"
    assert bad.status.code == Status.STATUS_CODE_ERROR
    receiver.requests.pop()
    assert [link for span in receiver.spans for link in links_of(span)] == [ids(trace_id, span_id)] * 3
    span = receiver.spans[0]
    destination = "export-runs.events:run-created:export-runs.run-created"
    assert span.name == f"process {destination}"
    assert span.kind == Span.SPAN_KIND_CONSUMER
    assert span.parent_span_id == b""
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert 0 < span.start_time_unix_nano < span.end_time_unix_nano <= time.time_ns()
    assert attributes(span) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": destination,
        "messaging.rabbitmq.destination.routing_key": "run-created",
        "messaging.batch.message_count": ANY,
    }
    assert [each.value.string_value for each in span.links[0].attributes] == ["m-1"]
    resource = {
        each.key: each.value.string_value for each in receiver.requests[0].resource_spans[0].resource.attributes
    }
    assert resource["service.name"] == "export-runs"


async def test_a_request_has_a_span_in_its_callers_trace_and_the_reply_belongs_to_it(
    settings: WorkerSettings, wire: Wire, receiver: Receiver
) -> None:
    trace_id, span_id, headers = trace_of(2)
    async with serving(settings, OTEL_SERVICE_NAME="ours", **receiver.variables):
        reply = await wire.reply_to("check-claims", CHECK, headers=headers, message_id="m-2")
        refused = await wire.reply_to("check-claims", b"{}", headers=headers)
        alone = await wire.reply_to("check-claims", CHECK)
        version, trace, reply_span, flags = str(reply.headers["traceparent"]).split("-")
        assert (version, trace, flags, reply.headers["tracestate"]) == ("00", trace_id, "01", STATE)
        span = await receiver.until(lambda span: span.span_id.hex() == reply_span)
        refusal = await receiver.until(lambda span: span.span_id.hex() == str(refused.headers["traceparent"])[36:52])
        await receiver.until(lambda span: span.span_id.hex() == str(alone.headers["traceparent"])[36:52])
    assert (span.trace_id, span.parent_span_id) == ids(trace_id, span_id)
    assert span.kind == Span.SPAN_KIND_CONSUMER
    destination = "export-runs.rpc:check-claims:export-runs.rpc.check-claims"
    assert span.name == f"process {destination}"
    assert attributes(span) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": destination,
        "messaging.rabbitmq.destination.routing_key": "check-claims",
        "messaging.message.id": "m-2",
        "messaging.message.conversation_id": reply.correlation_id,
        "export_runs.reply.code": "OK",
    }
    assert attributes(refusal)["export_runs.reply.code"] == "INVALID_REQUEST"
    assert refusal.status.code == Status.STATUS_CODE_UNSET
    assert all(
        {each.key: each.value.string_value for each in sent.resource.attributes}["service.name"] == "ours"
        for request in receiver.requests
        for sent in request.resource_spans
    )


async def test_an_alert_belongs_to_the_trace_of_what_caused_it(settings: WorkerSettings, wire: Wire) -> None:
    """Also where another worker publishes it. The SDK is not needed for that."""
    run = run_created()
    event, request = trace_of(4)[2], trace_of(5)[2]
    async with serving(settings, NO_ALERTS):
        await wire.publish("run-finished", run_finished(claimIds=["c-1", "c-2"]), headers=trace_of(6)[2])
        await wire.until_count("export-runs.run-finished", 0)
        second = run_finished(claimIds=["c-1"])
        await wire.publish("run-finished", second, headers=event)
        await wire.until_run(second["runId"])
        await wire.publish("run-created", run)
        await wire.until_run(run["runId"])
        end = {"orgId": run["orgId"], "runId": run["runId"], "status": "completed", "claimIds": ["c-2"]}
        assert (await wire.ask("update-export-run-status", end, headers=request))["ok"]
        untraced = run_finished(claimIds=["c-2"])
        await wire.publish("run-finished", untraced)
        await wire.until_run(untraced["runId"])
    async with worker_process(settings):
        alerts = [await wire.take_from("export-runs.alerts") for _ in range(3)]
    found = {json.loads(alert.body)["runId"]: carried(alert) for alert in alerts}
    assert found == {second["runId"]: event, run["runId"]: request, untraced["runId"]: {}}


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("sends_spans", [False, True])
async def test_hostile_headers_harm_no_message(
    settings: WorkerSettings, wire: Wire, receiver: Receiver, sends_spans: bool
) -> None:
    unreadable: list[Any] = [
        7,
        True,
        None,
        1.5,
        bytearray(b"\xff\xfe"),
        [PARENT],
        {"traceparent": PARENT},
        "",
        "x" * 60_000,
        PARENT[:-1],
        PARENT + "-more",
        PARENT.upper(),
        "ff" + PARENT[2:],
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        "\u0660" * 55,
        "\x00\n\x1b[31m",
    ]
    hostile = [{"traceparent": each, "tracestate": STATE} for each in unreadable]
    states: list[Any] = [
        7,
        bytearray(b"\xff"),
        ["a=1"],
        "a=1," * 10_000,
        ",".join(f"k{number}=v" for number in range(33)),
        ",".join(f"k{number}=v" for number in range(5_000)),
        "a=1,a=2",
        "\x1b[31m",
        "=",
    ]
    async with serving(settings, **(receiver.variables if sends_spans else {})) as worker:
        for headers in hostile:
            run = run_created()
            await wire.publish("run-created", run, headers=headers)
            await wire.until_run(run["runId"])
            reply = await wire.reply_to("check-claims", CHECK, headers=headers)
            assert ("traceparent" in reply.headers) is sends_spans
            assert "tracestate" not in reply.headers
        for state in states:
            run, headers = run_created(), {"traceparent": PARENT, "tracestate": state}
            await wire.publish("run-created", run, headers=headers)
            await wire.until_run(run["runId"])
            reply = await wire.reply_to("check-claims", CHECK, headers=headers)
            assert str(reply.headers["traceparent"])[:35] == PARENT[:35]
            assert len(str(reply.headers.get("tracestate", ""))) <= 512
        if not sends_spans:
            headers = trace_of(7)[2]
            assert carried(await wire.reply_to("check-claims", CHECK, headers=headers)) == headers
            assert carried(await wire.reply_to("check-claims", b"no JSON", headers=headers)) == headers
            assert carried(await wire.reply_to("check-claims", CHECK)) == {}
        await wire.publish("run-created", {"no": "event"}, headers=hostile[8])
        letter = await wire.take_from("export-runs.run-created.dead")
        assert letter.headers["traceparent"] == hostile[8]["traceparent"]
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0
        assert [line for line in await worker.rest() if "span" in line or "trace" in line] == []


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind((HOST, 0))
        silent.listen(1000)
        yield silent.getsockname()[1]


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_endpoint_that_is_away_stops_nothing(
    settings: WorkerSettings, wire: Wire, silent_port: int, hangs: bool, connection: Connection
) -> None:
    port = silent_port
    if not hangs:
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = free.getsockname()[1]
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:secret@{HOST}:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "60" if hangs else "1",
    }
    headers = trace_of(9)[2]
    await declare(wire.channel)
    async with worker_process(settings, **variables) as worker:
        await worker.until_logged("tracing_on")
        await wire.ready()
        for _ in range(200):  # more than can wait to be sent
            await wire.publish("run-created", run_created(), headers=headers)
            await wire.result("check-claims", **CHECK)
        trouble = await worker.until_logged("spans_not_sent")
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0
        lines = await worker.rest()
    assert [line for line in [str(trouble), *lines] if "secret" in line] == []
    ends = [json.loads(line) for line in lines if line]
    for part in ("events", "requests"):
        [ended_at, stopped_at] = [
            datetime.fromisoformat(end["timestamp"])
            for end in ends
            if end.get("part") == part and end["event"] in ("session_ended", "worker_stopped")
        ]
        assert (stopped_at - ended_at).total_seconds() < 15  # of which the spans may take 3
    assert await connection.fetchval("SELECT count(*) FROM export_runs") == 200


async def test_what_waits_is_sent_when_the_worker_stops(
    settings: WorkerSettings, wire: Wire, receiver: Receiver
) -> None:
    headers = trace_of(10)[2]
    variables = receiver.variables | {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    await declare(wire.channel)
    async with worker_process(settings, **variables) as worker:
        await wire.ready()
        run = run_created()
        await wire.publish("run-created", run, headers=headers)
        await wire.until_run(run["runId"])
        assert receiver.spans == []
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0
    assert {span.name.split(":")[1] for span in receiver.spans} >= {"run-created", "check-claims"}
