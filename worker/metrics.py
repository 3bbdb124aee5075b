"""The metrics of one process of a worker. docs/OPERATIONS.md lists them; no label holds an organisation or a run.

Each process has its own numbers. Whoever publishes them adds the label `part`, which says of which process they are.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

# A transaction takes some milliseconds, and its time-out is ten seconds.
_TRANSACTION_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# Up to the longest deadline that clients use.
_REQUEST_SECONDS: Final = (0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)
_LAG_SECONDS: Final = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1_800, 7_200, 86_400)
_BATCH_EVENTS: Final = (1, 2, 5, 10, 20, 50, 100, 200)

BUILD_INFO: Final = Gauge(
    "export_runs_build_info",
    "Always 1; its labels say which version runs, and which schema version it knows.",
    ["version", "schema_version"],
    registry=REGISTRY,
)

EVENTS_STORED: Final = Counter(
    "export_runs_events_stored", "Events stored and acknowledged.", ["event_type"], registry=REGISTRY
)
EVENTS_REDELIVERED: Final = Counter(
    "export_runs_events_redelivered",
    "Events that RabbitMQ had delivered before.",
    ["event_type"],
    registry=REGISTRY,
)
EVENTS_PARKED: Final = Counter(
    "export_runs_events_parked",
    "Failed tries of events that are kept aside, and tried again later.",
    ["event_type"],
    registry=REGISTRY,
)
EVENTS_DEAD_LETTERED: Final = Counter(
    "export_runs_events_dead_lettered",
    "Events published to the dead letters, by the code of the reason.",
    ["event_type", "code"],
    registry=REGISTRY,
)
BATCH_EVENTS: Final = Histogram(
    "export_runs_batch_events",
    "Events stored in one transaction.",
    ["event_type"],
    buckets=_BATCH_EVENTS,
    registry=REGISTRY,
)
STORE_SECONDS: Final = Histogram(
    "export_runs_store_seconds",
    "Time of one transaction that stored events, with its commit.",
    ["event_type"],
    buckets=_TRANSACTION_SECONDS,
    registry=REGISTRY,
)
COMMIT_SECONDS: Final = Histogram(
    "export_runs_commit_seconds",
    "Time of the commit alone.",
    ["event_type"],
    buckets=_TRANSACTION_SECONDS,
    registry=REGISTRY,
)
EVENT_LAG_SECONDS: Final = Histogram(
    "export_runs_event_lag_seconds",
    "From when the oldest event of a batch occurred, by its exporter's clock, until it was stored.",
    ["event_type"],
    buckets=_LAG_SECONDS,
    registry=REGISTRY,
)
EVENT_WAIT_SECONDS: Final = Histogram(
    "export_runs_event_wait_seconds",
    "From when the worker received the oldest event of a batch until it was stored.",
    ["event_type"],
    buckets=_LAG_SECONDS,
    registry=REGISTRY,
)
OLDEST_EVENT_SECONDS: Final = Gauge(
    "export_runs_oldest_event_in_hand_seconds",
    "For how long the worker has held the oldest event that it has not settled; 0 where it holds none.",
    ["event_type"],
    registry=REGISTRY,
)

QUEUE_MESSAGES: Final = Gauge(
    "export_runs_queue_messages", "Messages that wait in a queue of RabbitMQ.", ["queue"], registry=REGISTRY
)
QUEUE_CONSUMERS: Final = Gauge(
    "export_runs_queue_consumers", "Consumers of a queue of RabbitMQ.", ["queue"], registry=REGISTRY
)
BACKLOG: Final = Gauge(
    "export_runs_backlog", "What waits for somebody, by its kind: 10,000 at most.", ["kind"], registry=REGISTRY
)
DOUBLE_EXPORTS_FOUND: Final = Counter(
    "export_runs_double_exports_found",
    "Claims that a run exported although another had, counted when RabbitMQ has taken the alert of that run.",
    registry=REGISTRY,
)

REQUESTS: Final = Counter(
    "export_runs_requests",
    "Requests answered, by operation and by the error code of the reply, or OK.",
    ["operation", "code"],
    registry=REGISTRY,
)
REQUEST_SECONDS: Final = Histogram(
    "export_runs_request_seconds",
    "From the arrival of a request until its reply is sent.",
    ["operation"],
    buckets=_REQUEST_SECONDS,
    registry=REGISTRY,
)
REQUESTS_IN_FLIGHT: Final = Gauge(
    "export_runs_requests_in_flight", "Requests held and not answered yet.", ["operation"], registry=REGISTRY
)
REQUESTS_EXPIRED: Final = Counter(
    "export_runs_requests_expired",
    "Requests whose caller was about to give up, or had, before there was an answer.",
    ["operation"],
    registry=REGISTRY,
)
REQUESTS_SHED: Final = Counter(
    "export_runs_requests_shed",
    "Requests refused because there was no room for their bodies.",
    ["operation"],
    registry=REGISTRY,
)

SESSIONS_STARTED: Final = Counter(
    "export_runs_sessions_started", "Sessions with RabbitMQ that began.", ["has_database"], registry=REGISTRY
)
SESSIONS_LOST: Final = Counter(
    "export_runs_sessions_lost",
    "Sessions with RabbitMQ that broke, by the class of the error.",
    ["error"],
    registry=REGISTRY,
)
BLOCKED_SECONDS: Final = Counter(
    "export_runs_connection_blocked_seconds",
    "How long RabbitMQ has read nothing from a connection, because it is short of memory or disk.",
    ["purpose"],
    registry=REGISTRY,
)
DATABASE_AWAY_SECONDS: Final = Gauge(
    "export_runs_database_away_seconds", "For how long the database cannot be used; 0 while it can.", registry=REGISTRY
)
POOL_CONNECTIONS: Final = Gauge(
    "export_runs_pool_connections", "Connections to PostgreSQL, idle or in use.", ["state"], registry=REGISTRY
)
