"""What is asked of the broker, to the letter: a queue that is declared otherwise cannot be changed later."""

from worker.topology import EXCHANGES, QUEUES

DEAD = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1_000_000,
    "x-max-length": 1_000_000,
    "x-overflow": "reject-publish",
}
RPC = {
    "x-queue-type": "classic",
    "x-queue-version": 2,
    "x-max-length": 10_000,
    "x-overflow": "reject-publish",
    "x-message-ttl": 30_000,
}
OPERATIONS = [
    "check-claims",
    "create-export-run",
    "delete-export-run",
    "find-runs-by-claim-id",
    "get-export-history",
    "get-export-run-by-id",
    "list-double-exports",
    "list-stale-runs",
    "release-claims",
    "reserve-claims",
    "resolve-double-export",
    "update-export-run-status",
]


def events(event_type: str) -> dict[str, object]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": 50,
        "x-max-length": 10_000_000,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "export-runs.dead-letter",
        "x-dead-letter-routing-key": event_type,
        "x-dead-letter-strategy": "at-least-once",
    }


def test_exchanges() -> None:
    assert {exchange.name: (exchange.type, exchange.arguments) for exchange in EXCHANGES} == {
        "export-runs.unroutable": ("fanout", {}),
        "export-runs.events": ("topic", {"alternate-exchange": "export-runs.unroutable"}),
        "export-runs.rpc": ("topic", {}),
        "export-runs.dead-letter": ("topic", {}),
        "export-runs.alerts": ("topic", {}),
    }


def test_queues() -> None:
    assert {queue.name: queue.arguments for queue in QUEUES} == {
        "export-runs.run-created": events("run-created"),
        "export-runs.run-finished": events("run-finished"),
        "export-runs.run-created.dead": DEAD,
        "export-runs.run-finished.dead": DEAD,
        "export-runs.unroutable": DEAD,
        "export-runs.alerts": DEAD,
        **{f"export-runs.rpc.{operation}": RPC for operation in OPERATIONS},
    }


def test_bindings() -> None:
    assert {queue.name: (queue.exchange, queue.routing_key) for queue in QUEUES} == {
        "export-runs.run-created": ("export-runs.events", "run-created"),
        "export-runs.run-finished": ("export-runs.events", "run-finished"),
        "export-runs.run-created.dead": ("export-runs.dead-letter", "run-created"),
        "export-runs.run-finished.dead": ("export-runs.dead-letter", "run-finished"),
        "export-runs.unroutable": ("export-runs.unroutable", ""),
        "export-runs.alerts": ("export-runs.alerts", "#"),
        **{f"export-runs.rpc.{operation}": ("export-runs.rpc", operation) for operation in OPERATIONS},
    }
