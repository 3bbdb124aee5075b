"""The topology is exactly what is written here: the arguments of a queue cannot be changed later."""

import re

import pytest

from cli.topology import POLICY_KEYS, topology_definitions
from worker.broker.topology import TOPOLOGY, Topology

DEAD_LETTER_QUEUE = {
    "x-queue-type": "quorum",
    "x-queue-leader-locator": "balanced",
    "x-delivery-limit": 1_000_000,
    "x-max-length": 1_000_000,
    "x-overflow": "reject-publish",
}
REQUEST_QUEUE = {
    "x-queue-type": "classic",
    "x-queue-version": 2,
    "x-max-length": 10_000,
    "x-overflow": "reject-publish",
    "x-message-ttl": 30_000,
}
OPERATIONS = [
    "check-claims",
    "check-period",
    "create-export-run",
    "delete-export-run",
    "explain-claim",
    "find-runs-by-claim-id",
    "get-export-history",
    "get-export-run-by-id",
    "get-last-export",
    "list-double-exports",
    "list-run-claims",
    "list-stale-runs",
    "release-claims",
    "reserve-claims",
    "resolve-double-export",
    "reverse-export",
    "update-export-run-status",
]


def event_queue(event_type: str) -> dict[str, object]:
    return {
        "x-queue-type": "quorum",
        "x-queue-leader-locator": "balanced",
        "x-delivery-limit": 50,
        "x-max-length": 10_000_000,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "export-runs.dead-letter",
        "x-dead-letter-routing-key": event_type,
        "x-dead-letter-strategy": "at-least-once",
    }


def parked_queue(event_type: str) -> dict[str, object]:
    return {
        "x-queue-type": "quorum",
        "x-queue-leader-locator": "balanced",
        "x-delivery-limit": 50,
        "x-max-length": 1_000_000,
        "x-overflow": "reject-publish",
        "x-message-ttl": 30_000,
        "x-dead-letter-exchange": "export-runs.events",
        "x-dead-letter-routing-key": event_type,
        "x-dead-letter-strategy": "at-least-once",
    }


def test_the_exchanges_have_these_types_and_arguments() -> None:
    assert {exchange.name: (exchange.type, exchange.arguments) for exchange in TOPOLOGY.exchanges} == {
        "export-runs.unroutable": ("fanout", {}),
        "export-runs.events": ("topic", {"alternate-exchange": "export-runs.unroutable"}),
        "export-runs.rpc": ("topic", {}),
        "export-runs.dead-letter": ("topic", {}),
        "export-runs.alerts": ("topic", {}),
        "export-runs.alerts.unroutable": ("fanout", {}),
    }


def test_the_queues_have_these_arguments() -> None:
    assert {queue.name: {**queue.limits, **queue.arguments} for queue in TOPOLOGY.queues} == {
        "export-runs.run-created": event_queue("run-created"),
        "export-runs.run-finished": event_queue("run-finished"),
        "export-runs.run-created.parked": parked_queue("run-created"),
        "export-runs.run-finished.parked": parked_queue("run-finished"),
        "export-runs.run-created.dead": DEAD_LETTER_QUEUE,
        "export-runs.run-finished.dead": DEAD_LETTER_QUEUE,
        "export-runs.unroutable": DEAD_LETTER_QUEUE,
        "export-runs.alerts": DEAD_LETTER_QUEUE,
        **{f"export-runs.rpc.{operation}": REQUEST_QUEUE for operation in OPERATIONS},
    }


def test_the_queues_have_these_bindings() -> None:
    assert {queue.name: (queue.exchange, queue.routing_key) for queue in TOPOLOGY.queues} == {
        "export-runs.run-created": ("export-runs.events", "run-created"),
        "export-runs.run-finished": ("export-runs.events", "run-finished"),
        "export-runs.run-created.parked": ("export-runs.dead-letter", "export-runs.run-created.parked"),
        "export-runs.run-finished.parked": ("export-runs.dead-letter", "export-runs.run-finished.parked"),
        "export-runs.run-created.dead": ("export-runs.dead-letter", "run-created"),
        "export-runs.run-finished.dead": ("export-runs.dead-letter", "run-finished"),
        "export-runs.unroutable": ("export-runs.unroutable", ""),
        "export-runs.alerts": ("export-runs.alerts.unroutable", ""),
        **{f"export-runs.rpc.{operation}": ("export-runs.rpc", operation) for operation in OPERATIONS},
    }


def test_request_queues_on_a_cluster_have_these_arguments() -> None:
    topology = TOPOLOGY.with_quorum_rpc_queues()
    quorum = {"x-queue-type": "quorum", "x-queue-leader-locator": "balanced", "x-delivery-limit": 50}
    expected = {**REQUEST_QUEUE, **quorum}
    del expected["x-queue-version"]
    queues = {queue.name: {**queue.limits, **queue.arguments} for queue in topology.queues}
    assert {name for name, arguments in queues.items() if arguments == expected} == {
        f"export-runs.rpc.{operation}" for operation in OPERATIONS
    }
    assert {name: queues[name] for name in queues if not name.startswith("export-runs.rpc.")} == {
        queue.name: {**queue.limits, **queue.arguments}
        for queue in TOPOLOGY.queues
        if not queue.name.startswith("export-runs.rpc.")
    }


def test_events_need_no_request_queue_and_requests_no_other() -> None:
    events, requests = TOPOLOGY.only(events=True, requests=False), TOPOLOGY.only(events=False, requests=True)
    assert TOPOLOGY.only(events=True, requests=True) == TOPOLOGY
    assert {queue.name for queue in requests.queues} == {f"export-runs.rpc.{operation}" for operation in OPERATIONS}
    assert [exchange.name for exchange in requests.exchanges] == ["export-runs.rpc"]
    assert len(events.queues) + len(requests.queues) == len(TOPOLOGY.queues)
    assert not [queue for queue in events.queues if queue in requests.queues]
    assert len(events.exchanges) + 1 == len(TOPOLOGY.exchanges)
    assert events.former_bindings == TOPOLOGY.former_bindings


def test_bindings_that_earlier_versions_declared_are_removed() -> None:
    bindings = [(each.queue, each.exchange, each.routing_key) for each in TOPOLOGY.former_bindings]
    assert bindings == [("export-runs.alerts", "export-runs.alerts", "#")]


@pytest.mark.parametrize("topology", [TOPOLOGY, TOPOLOGY.with_quorum_rpc_queues()], ids=["classic", "quorum"])
def test_each_queue_of_the_definitions_gets_the_same_by_its_arguments_and_its_only_policy(topology: Topology) -> None:
    definitions = topology_definitions(topology, "/")
    for queue, printed in zip(topology.queues, definitions["queues"], strict=True):
        [policy] = [each for each in definitions["policies"] if re.search(each["pattern"], queue.name)]
        limits = {name: policy["definition"][key] for name, key in POLICY_KEYS.items() if key in policy["definition"]}
        assert {**limits, **printed["arguments"]} == {**queue.limits, **queue.arguments}
        assert not limits.keys() & printed["arguments"].keys()
    assert [each["destination"] for each in definitions["bindings"]] == [queue.name for queue in topology.queues]
