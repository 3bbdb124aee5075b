"""The command `export-runs topology`: the exchanges and queues of the service, for who lets no worker make them."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from cli.permissions import any_of
from cli.terminal import print_json
from schema import names
from worker.broker.topology import TOPOLOGY, Queue, Topology

POLICY_KEYS: Final = {
    "x-max-length": "max-length",
    "x-message-ttl": "message-ttl",
    "x-delivery-limit": "delivery-limit",
}
"""The limits that RabbitMQ can change while a queue has messages, and what a policy calls them."""

topology_commands = typer.Typer()


@topology_commands.command()
def topology(
    vhost: Annotated[str, typer.Option(help="The virtual host.")] = "/",
    quorum_requests: Annotated[
        bool, typer.Option("--quorum-requests", help="For workers with EXPORT_RUNS_RPC_QUEUE_TYPE=quorum.")
    ] = False,
) -> None:
    """Print definitions for `rabbitmqctl import_definitions`: exchanges, queues, bindings, and limits as policies.

    Then workers need no permission to configure anything, and a limit is changed by changing its policy. What is there
    already stays as it is.
    """
    print_json(topology_definitions(TOPOLOGY.with_quorum_rpc_queues() if quorum_requests else TOPOLOGY, vhost))


def topology_definitions(wanted: Topology, vhost: str) -> dict[str, Any]:
    """The definitions of a topology, in the form of RabbitMQ."""
    lasting = {"vhost": vhost, "durable": True, "auto_delete": False}
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {**lasting, "name": each.name, "type": each.type, "internal": False, "arguments": each.arguments}
            for each in wanted.exchanges
        ],
        "queues": [{**lasting, "name": each.name, "arguments": _arguments(each)} for each in wanted.queues],
        "bindings": [
            {
                "source": each.exchange,
                "vhost": vhost,
                "destination": each.name,
                "destination_type": "queue",
                "routing_key": each.routing_key,
                "arguments": {},
            }
            for each in wanted.queues
        ],
        "policies": _policies(wanted.queues, vhost),
    }


def _arguments(queue: Queue) -> dict[str, Any]:
    return {**queue.arguments, **{name: queue.limits[name] for name in queue.limits if name not in POLICY_KEYS}}


def _policies(queues: Sequence[Queue], vhost: str) -> list[dict[str, Any]]:
    """One policy for each kind of queue: RabbitMQ applies one policy to a queue, not several."""
    kinds: dict[str, list[Queue]] = {}
    for queue in queues:
        kinds.setdefault(_kind(queue), []).append(queue)
    return [
        {
            "vhost": vhost,
            "name": f"export-runs {kind}",
            "pattern": any_of(queue.name for queue in some),
            "apply-to": "queues",
            "priority": 0,
            "definition": {POLICY_KEYS[name]: some[0].limits[name] for name in some[0].limits if name in POLICY_KEYS},
        }
        for kind, some in kinds.items()
    ]


def _kind(queue: Queue) -> str:
    if queue.name.endswith(".parked"):
        return "parked events"
    return {
        names.EVENTS_EXCHANGE: "events",
        names.RPC_EXCHANGE: "requests",
        names.UNROUTABLE_ALERTS_EXCHANGE: "alerts",
    }.get(queue.exchange, "dead letters")
