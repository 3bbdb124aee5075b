"""What the headers of a message say of its trace, and when a process makes spans."""

import sys
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from schema.trace_context import TraceContext
from worker import tracing
from worker.routes import Part
from worker.tracing import spans_sent, trace_context

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret@127.0.0.1:9"}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(PARENT),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@given(
    traceparent=VALUES | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
    tracestate=VALUES | st.from_regex(r"[a-z]{1,3}=.{0,300}(,[a-z]{1,3}=.?){0,40}"),
)
def test_whatever_the_headers_hold_a_trace_is_read_or_there_is_none(traceparent: Any, tracestate: Any) -> None:
    context = trace_context({"traceparent": traceparent, "tracestate": tracestate})
    if context is not None:
        assert len(context.traceparent) == 55
        assert len(context.tracestate or "") <= 512
        assert trace_context(context.headers) == context


def test_a_trace_is_handed_on_as_it_came() -> None:
    assert trace_context({"traceparent": PARENT}) == TraceContext(PARENT)
    assert trace_context({"traceparent": PARENT, "tracestate": "a=1,b=2"}) == TraceContext(PARENT, "a=1,b=2")
    full = ",".join(f"k{number}=v" for number in range(32))
    assert trace_context({"traceparent": PARENT, "tracestate": full}) == TraceContext(PARENT, full)


@pytest.mark.parametrize(
    "headers", [None, {}, {"tracestate": "a=1"}, {"Traceparent": PARENT}, {"traceparent": [PARENT]}]
)
def test_a_message_of_no_trace(headers: dict[str, Any] | None) -> None:
    assert trace_context(headers) is None


async def lines_of(part: Part | None = None) -> list[Any]:
    """What a process logs that makes spans, if it does."""
    with structlog.testing.capture_logs() as lines:
        async with spans_sent(part, 200, 0.1, 60):
            assert (tracing._tracer is not None) == any(line["event"] == "tracing_on" for line in lines)
    assert tracing._tracer is None
    return lines


@pytest.mark.parametrize("variables", [{}, {**ENDPOINT, "OTEL_SDK_DISABLED": "true"}])
async def test_nothing_is_said_where_no_spans_are_wanted(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert await lines_of() == []


async def test_where_spans_go_is_said_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(ENDPOINT.items())))
    [line] = await lines_of(Part.EVENTS)
    assert line == {"event": "tracing_on", "log_level": "info", "endpoint": "127.0.0.1:9"}


@pytest.mark.parametrize(
    ("variables", "part", "reason"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None, "http/protobuf only; the environment says grpc"),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "0"}, Part.REQUESTS, "cannot be set up"),
    ],
)
async def test_a_process_that_cannot_send_spans_says_why(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], part: Part | None, reason: str
) -> None:
    for name, value in {**ENDPOINT, **variables}.items():
        monkeypatch.setenv(name, value)
    [line] = await lines_of(part)
    assert (line["event"], line["log_level"]) == ("tracing_off", "warning")
    assert reason in line["reason"]
    assert "secret" not in str(line)


async def test_without_the_sdk_a_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(ENDPOINT.items())))
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    [line] = await lines_of()
    assert "not installed" in line["reason"]
