"""Traces: the context that comes with a message and goes on with what it leads to, and the spans of the worker's work.

To hand a context on needs no SDK. Spans are made where the extra `tracing` is installed and the environment names an
endpoint for them (docs/OPERATIONS.md#tracing). They are sent by a thread of the SDK, which drops those that it cannot
send: nobody waits for them. A span is made when its work is done, with the time of its start.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pamqp.commands import Basic

from schema import names
from schema.errors import ErrorCode
from schema.trace_context import TraceContext
from worker.logs import Repetitions, describe
from worker.routes import Part

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The variables of the SDK that say where spans are sent. Without one of them there are none."""

PROTOCOL_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"

BATCH_SPANS_KEPT_MAX: Final = 100
"""Spans of batches that wait to be sent; with more, new ones are dropped. Each may have a link for each event of a
batch, and a link takes about a kilobyte: so many take about 20 MB."""

BATCH_SPANS_SENT_MAX: Final = 20
"""Spans of batches in one message to the endpoint. To encode them holds the interpreter for some milliseconds."""

TEXT_CHARS_MAX: Final = 300
"""Of what the SDK says of its trouble, so much is logged."""

SERVER_FAULTS: Final = frozenset({ErrorCode.UNAVAILABLE.value, ErrorCode.INTERNAL.value})
"""The codes of replies that say that the worker failed. All others are its caller's doing, and no error of a span."""

Headers = Mapping[str, Any]

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class _HeaderTexts(Getter[Headers]):
    """Reads the headers of a message, whatever they hold: what is no text is not there."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        value = carrier.get(key)
        return [value] if isinstance(value, str) else None

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


_PROPAGATOR: Final = TraceContextTextMapPropagator()
_HEADER_TEXTS: Final = _HeaderTexts()

_tracer: Tracer | None = None
"""What makes the spans of this process; None where there are none."""


def trace_context(headers: Headers | None) -> TraceContext | None:
    """The trace that a message belongs to, by its headers; None where they name none, or cannot be read.

    A `tracestate` that cannot be read, has more than 512 characters or more than 32 entries is left out.
    """
    if not headers or names.TRACEPARENT_HEADER not in headers:
        return None
    return _as_headers(_PROPAGATOR.extract(headers, Context(), _HEADER_TEXTS))


def _as_headers(context: Context) -> TraceContext | None:
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers, context)
    traceparent = headers.get(names.TRACEPARENT_HEADER)
    return None if traceparent is None else TraceContext(traceparent, headers.get(names.TRACESTATE_HEADER))


def record_batch(
    event_type: str, messages: Iterable[Basic.Properties], started_ns: int, error_type: str | None = None
) -> None:
    """Make a span of one try to store events, with a link to the trace of each that belongs to one.

    It started at `started_ns`, in nanoseconds since 1970, and ends now. `error_type` says why it failed, if it did.
    """
    if _tracer is None:
        return
    links: list[Link] = []
    count = 0
    for properties in messages:
        count += 1
        remote = trace.get_current_span(_PROPAGATOR.extract(properties.headers or {}, Context(), _HEADER_TEXTS))
        if (context := remote.get_span_context()).is_valid:
            links.append(Link(context, _message_id(properties)))
    attributes = {
        **_attributes(names.EVENTS_EXCHANGE, event_type, names.event_queue(event_type)),
        "messaging.batch.message_count": count,
    }
    span = _start_span(_tracer, attributes, Context(), started_ns, links)
    if error_type is not None:
        _note_error(span, error_type)
    span.end()


class AnswerSpan:
    """The span of a request, from its arrival until its reply is sent. Where there are no spans, it is none."""

    def __init__(self, operation: str, properties: Basic.Properties, waited_s: float, code: str) -> None:
        """Made when the reply is there, which has this code, `waited_s` after the arrival."""
        self._span: Span | None = None
        if _tracer is None:
            self.trace_context = trace_context(properties.headers)
            """The trace that the reply belongs to, if there is one: where there are no spans, its caller's."""
            return
        attributes = {
            **_attributes(names.RPC_EXCHANGE, operation, names.rpc_queue(operation)),
            **_message_id(properties),
            "export_runs.reply.code": code,
        }
        if properties.correlation_id:
            attributes["messaging.message.conversation_id"] = properties.correlation_id
        caller = _PROPAGATOR.extract(properties.headers or {}, Context(), _HEADER_TEXTS)
        self._span = _start_span(_tracer, attributes, caller, time.time_ns() - round(waited_s * 1e9), [])
        if code in SERVER_FAULTS:
            _note_error(self._span, code)
        self.trace_context = _as_headers(trace.set_span_in_context(self._span, Context()))

    def end(self) -> None:
        """The reply is sent."""
        if self._span is not None:
            self._span.end()


def _start_span(
    tracer: Tracer, attributes: dict[str, Any], parent: Context, started_ns: int, links: list[Link]
) -> Span:
    name = f"process {attributes['messaging.destination.name']}"
    return tracer.start_span(name, parent, SpanKind.CONSUMER, attributes, links, started_ns)


def _attributes(exchange: str, routing_key: str, queue: str) -> dict[str, Any]:
    """Those of OpenTelemetry's conventions for RabbitMQ. None holds an organisation, a run or a claim."""
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": f"{exchange}:{routing_key}:{queue}",
        "messaging.rabbitmq.destination.routing_key": routing_key,
    }


def _message_id(properties: Basic.Properties) -> dict[str, str]:
    return {"messaging.message.id": properties.message_id} if properties.message_id else {}


def _note_error(span: Span, error_type: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)


@asynccontextmanager
async def spans_sent(
    part: Part | None, links_max: int, flush_s: float, repeat_log_first_s: float
) -> AsyncIterator[None]:
    """Make spans of what this process does meanwhile, where it can and is asked to; else do nothing.

    At the end what waits is sent for at most `flush_s` seconds. A trouble of the endpoint is logged, and harms nothing.
    """
    global _tracer
    provider = _provider(part, links_max, repeat_log_first_s)
    if provider is None:
        yield
        return
    _tracer = provider.get_tracer("export-runs", metadata.version("export-run-repository"))
    try:
        yield
    finally:
        _tracer = None
        # In a thread that nobody waits for at the end of the process: an endpoint that hangs would keep it.
        ending = threading.Thread(target=provider.shutdown, name="span-flush", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, flush_s)


def _provider(part: Part | None, links_max: int, repeat_log_first_s: float) -> "TracerProvider | None":
    """What makes spans and sends them; None, with the reason in the log, where it cannot be had."""
    endpoint = next(filter(None, map(os.environ.get, ENDPOINT_VARIABLES)), None)
    if endpoint is None or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    protocol = next(filter(None, map(os.environ.get, PROTOCOL_VARIABLES)), PROTOCOL)
    if protocol != PROTOCOL:
        log.warning("tracing_off", reason=f"spans are sent by {PROTOCOL} only; the environment says {protocol}")
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("tracing_off", reason="the extra tracing of this package is not installed")
        return None
    library = logging.getLogger("opentelemetry")
    library.handlers = [_TroubleLog(repeat_log_first_s)]
    library.propagate = False
    try:
        ours = Resource.create(
            {
                "service.name": "export-runs",
                "service.version": metadata.version("export-run-repository"),
                "export_runs.part": part or "all",
            }
        )
        provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()),  # what the environment says comes first
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_links=links_max),
        )
        if part is Part.REQUESTS:
            processor = BatchSpanProcessor(OTLPSpanExporter())
        else:
            processor = BatchSpanProcessor(
                OTLPSpanExporter(),
                max_queue_size=BATCH_SPANS_KEPT_MAX,
                max_export_batch_size=BATCH_SPANS_SENT_MAX,
            )
        provider.add_span_processor(processor)
    except Exception as error:  # noqa: BLE001 -- a wrong variable of the SDK must not keep a worker from its work
        log.warning("tracing_off", reason="the SDK cannot be set up as the environment says", **describe(error))
        return None
    url = urlsplit(endpoint)
    log.info("tracing_on", endpoint=url.netloc.rpartition("@")[2])
    return provider


class _TroubleLog(logging.Handler):
    """Logs what the SDK says of its trouble as the worker logs, at growing intervals where it repeats."""

    def __init__(self, repeat_log_first_s: float) -> None:
        super().__init__(logging.WARNING)
        self._repetitions = Repetitions(repeat_log_first_s)

    def emit(self, record: logging.LogRecord) -> None:
        repetition = self._repetitions.note(str(record.msg), time.monotonic())
        if repetition is not None:
            log.warning("spans_not_sent", text=record.getMessage()[:TEXT_CHARS_MAX], **repetition)
