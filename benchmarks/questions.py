"""The rows about questions to one organisation: each is asked of one with many runs and of one with few."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from benchmarks import load
from benchmarks.bench import Bench
from benchmarks.load import Address
from benchmarks.processes import REQUESTS_WORKER
from benchmarks.results import Extra, Goal, Pair, Side, milliseconds, p99_ms
from benchmarks.sizes import IN_FLIGHT_REQUESTS
from benchmarks.wire import BUSY_ORGANISATION, QUIET_ORGANISATION, encoded

QUESTION_P99_MS_MAX: Final = 100.0

MONTH: Final = {"periodStart": "2024-12-01", "periodEnd": "2024-12-31"}
"""A month that a hundred runs of each organisation are about."""


def question(operation: str, **fields: object) -> Callable[[Bench], Awaitable[Pair]]:
    """A row: the time until the answer of an organisation with many runs, against one with few."""

    async def measure(bench: Bench) -> Pair:
        sizes = bench.sizes
        url = await bench.filled(sizes.few_claims)
        many = Side(f"{sizes.busy_runs:,} runs", "ms", [])
        few = Side(f"{sizes.quiet_runs:,} runs", "ms", [])
        bodies = {
            side: encoded({"orgId": org_id, **fields})
            for side, org_id in ((few.name, QUIET_ORGANISATION), (many.name, BUSY_ORGANISATION))
        }
        server = replace(load.OUR_CLAIMS, address=Address("export-runs.rpc", operation))
        all_s: list[float] = []
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                bench.server(server, REQUESTS_WORKER, url, list(bodies.values()), IN_FLIGHT_REQUESTS)
            )
            for body in bodies.values():
                await client.latencies_s([body] * sizes.warm_up_requests)
            for _ in bench.rounds():
                few.samples.append(milliseconds(await client.latencies_s([bodies[few.name]] * sizes.history_pages)))
                latencies_s = await client.latencies_s([bodies[many.name]] * sizes.history_pages)
                many.samples.append(milliseconds(latencies_s))
                all_s += latencies_s
        goal = Goal(QUESTION_P99_MS_MAX, at_least=False, unit=" ms")
        return Pair(many, few, [Extra(f"p99 of {many.name}", p99_ms(all_s), "ms", goal)])

    return measure
