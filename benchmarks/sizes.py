"""How much is measured. The unit is last in each name."""

from dataclasses import dataclass
from typing import Final

from worker.limits import DEFAULT_LIMITS

CLAIMS_PER_EVENT: Final = 20
EVENT_BYTES: Final = 1_024
PREFETCH_EVENTS: Final = DEFAULT_LIMITS.prefetch_events
"""The worker's own prefetch. Every peer that consumes events gets the same."""

IN_FLIGHT_REQUESTS: Final = 64
IN_FLIGHT_PUBLISHES: Final = 1_000
CLAIMS_PER_LARGE_CHECK: Final = 500
CLAIMS_PER_GUARD_CHECK: Final = 20
GUARD_CHECKS_PER_S: Final = 40
KNOWN_CLAIMS_SHARE: Final = 0.5
"""This share of the claims in a request has been exported. The others are unknown to the service."""

HISTORY_PAGE_RUNS: Final = 20
SEED: Final = 7
"""With the same seed, two runs send the same requests in the same order."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a complete run."""

    rounds: int = 5
    drained_events: int = 10_000
    """More than PREFETCH_EVENTS: what a consumer holds when the measurement begins is not counted."""

    delivered_events: int = 50_000
    """For RabbitMQ alone, which delivers `drained_events` within a tenth of a second: too short to time."""

    lone_events: int = 100
    busy_lookups: int = 4_000
    lone_lookups: int = 1_000
    large_checks: int = 300
    history_pages: int = 300
    warm_up_requests: int = 300
    few_claims: int = 100_000
    many_claims: int = 10_000_000
    huge_claims: int = 100_000_000
    organisations: int = 1_000
    history_page: int = 10_000
    memory_rounds: int = 3
    memory_few_events: int = 1_000
    memory_many_events: int = 1_000_000
    memory_drain_s: float = 10
    guard_events: int = 30_000
    guard_warm_up_requests: int = 100
    busy_runs: int = 10_000
    quiet_runs: int = 100


FULL: Final = Sizes()

QUICK: Final = Sizes(
    rounds=2,
    drained_events=2_500,
    delivered_events=10_000,
    lone_events=10,
    busy_lookups=500,
    lone_lookups=50,
    large_checks=20,
    history_pages=20,
    warm_up_requests=20,
    few_claims=10_000,
    many_claims=100_000,
    huge_claims=1_000_000,
    organisations=10,
    history_page=100,
    memory_rounds=1,
    memory_few_events=1_000,
    memory_many_events=10_000,
    memory_drain_s=2,
    guard_events=6_000,
    guard_warm_up_requests=50,
    busy_runs=1_000,
)
"""About a hundredth of a complete run, to see whether the benchmarks work. The numbers mean little."""

assert min(FULL.drained_events, QUICK.drained_events) > 2 * PREFETCH_EVENTS
