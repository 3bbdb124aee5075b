"""The HTTP port of a worker: /livez, /readyz and /metrics. It changes nothing, and asks for no password.

/livez says whether to restart the worker: 503 while the event loop of one of its processes stands still. /readyz says
whether it can work: 503 while a process has no session with RabbitMQ, or cannot use the database. Both name what is
wrong in JSON.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, TypeAlias

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from worker.monitoring.health import Report
from worker.settings import HTTP_PORT, HttpSettings, Misconfiguration

REQUEST_LINE_BYTES_MAX: Final = 2_048
CLOSE_TIMEOUT_S: Final = 1.0

Reports: TypeAlias = Callable[[], Awaitable[Sequence[Report]]]
"""Asks each process of the worker for its report."""


@asynccontextmanager
async def http_server(settings: HttpSettings, reports: Reports) -> AsyncIterator[None]:
    """Answer on the port, if one is set. Raises Misconfiguration where the port cannot be used."""
    if settings.http_port is None:
        yield
        return
    app = web.Application(client_max_size=0)
    app.add_routes(
        [
            web.get("/livez", lambda _: _liveness(reports)),
            web.get("/readyz", lambda _: _readiness(reports)),
            web.get("/metrics", lambda _: _metrics(reports)),
        ]
    )
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=CLOSE_TIMEOUT_S,
        max_line_size=REQUEST_LINE_BYTES_MAX,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.http_host, settings.http_port).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise Misconfiguration(HTTP_PORT, f"cannot listen on it: {reason}") from None
        yield
    finally:
        await runner.cleanup()


async def _liveness(reports: Reports) -> web.Response:
    return _verdict({report.part: report.obstacles for report in await reports() if not report.is_alive})


async def _readiness(reports: Reports) -> web.Response:
    return _verdict({report.part: report.obstacles for report in await reports() if report.obstacles})


def _verdict(obstacles: dict[str, list[str]]) -> web.Response:
    status = HTTPStatus.SERVICE_UNAVAILABLE if obstacles else HTTPStatus.OK
    return web.json_response({"ok": not obstacles, "obstacles": obstacles}, status=status)


async def _metrics(reports: Reports) -> web.Response:
    registry = CollectorRegistry()
    registry.register(_Merged(await reports()))
    return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Merged(Collector):
    """The metrics of several processes, each number with its process in the label `part`."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self._reports = reports

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for report in self._reports:
            for family in text_string_to_metric_families(report.metrics):
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, {**sample.labels, "part": report.part}, sample.value)
        return families.values()
