"""The command `export-runs permissions rabbitmq`: what each kind of user needs of RabbitMQ, and nothing else.

It prints definitions that `rabbitmqctl import_definitions` takes. A permission is a regular expression of the names of
exchanges and queues. A topic permission is one of routing keys: who may publish to `export-runs.rpc` is told apart by
the operations that they may ask for.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from cli.terminal import err, print_json
from schema import names
from schema import operations as rpc
from schema.events import EVENTS
from schema.operations import OPERATIONS, Operation

NOTHING: Final = "^$"
REPLIES: Final = "amq.default"
"""What RabbitMQ calls the exchange by whose means each queue can be written to, direct reply-to included."""

USER_NAME_MAX: Final = 255

_READING: Final = (
    rpc.GET_EXPORT_HISTORY,
    rpc.GET_EXPORT_RUN_BY_ID,
    rpc.LIST_RUN_CLAIMS,
    rpc.FIND_RUNS_BY_CLAIM_ID,
    rpc.CHECK_CLAIMS,
    rpc.EXPLAIN_CLAIM,
    rpc.CHECK_PERIOD,
    rpc.GET_LAST_EXPORT,
    rpc.LIST_DOUBLE_EXPORTS,
)


@dataclass(frozen=True, slots=True)
class Role:
    """What users of one kind may do. Each field is a regular expression that must match a whole name."""

    duty: str
    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING
    topics: tuple[tuple[str, str], ...] = ()
    """For an exchange, the routing keys that they may publish with. Without a line, any."""

    tags: str = ""


def any_of(found: Iterable[str]) -> str:
    """The regular expression of these names."""
    return f"^({'|'.join(map(re.escape, found))})$"


def _operations(*allowed: Operation[Any, Any]) -> tuple[str, str]:
    return names.RPC_EXCHANGE, any_of(operation.name for operation in allowed)


_EVENTS_TOPICS: Final = (names.EVENTS_EXCHANGE, any_of(EVENTS))
_OURS: Final = rf"^{re.escape('export-runs.')}"

ROLES: Final = {
    "exporter": Role(
        "publishes events, and reserves the claims of its runs",
        write=any_of([names.EVENTS_EXCHANGE, names.RPC_EXCHANGE]),
        topics=(
            _EVENTS_TOPICS,
            _operations(
                rpc.CHECK_CLAIMS,
                rpc.RESERVE_CLAIMS,
                rpc.RELEASE_CLAIMS,
                rpc.CREATE_EXPORT_RUN,
                rpc.UPDATE_EXPORT_RUN_STATUS,
                rpc.GET_EXPORT_RUN_BY_ID,
            ),
        ),
    ),
    "guard": Role(
        "checks and reserves claims",
        write=any_of([names.RPC_EXCHANGE]),
        topics=(
            _operations(
                rpc.CHECK_CLAIMS,
                rpc.RESERVE_CLAIMS,
                rpc.RELEASE_CLAIMS,
                rpc.CHECK_PERIOD,
                rpc.FIND_RUNS_BY_CLAIM_ID,
            ),
        ),
    ),
    "panel": Role(
        "reads history, runs and claims",
        write=any_of([names.RPC_EXCHANGE]),
        topics=(_operations(*_READING),),
    ),
    "operator": Role(
        "asks for every operation, publishes events, reads and removes dead letters and alerts",
        write=any_of([names.EVENTS_EXCHANGE, names.RPC_EXCHANGE]),
        read=any_of([*map(names.dead_letter_queue, EVENTS), names.UNROUTABLE_QUEUE, names.ALERTS_QUEUE]),
        topics=(_EVENTS_TOPICS, _operations(*OPERATIONS)),
    ),
    "worker": Role(
        "is the service, and makes its exchanges and queues",
        configure=_OURS,
        write=rf"^(export-runs\..*|{re.escape(REPLIES)})$",
        read=_OURS,
    ),
    "restricted-worker": Role(
        "is the service, where its exchanges and queues are there already",
        write=any_of([names.DEAD_LETTER_EXCHANGE, names.ALERTS_EXCHANGE, names.UNROUTABLE_ALERTS_EXCHANGE, REPLIES]),
        read=any_of([*map(names.event_queue, EVENTS), *(names.rpc_queue(operation.name) for operation in OPERATIONS)]),
    ),
    "monitor": Role(
        "looks at the lengths of queues, and whether a check is answered",
        write=any_of([names.RPC_EXCHANGE]),
        topics=(_operations(rpc.CHECK_CLAIMS),),
        tags="monitoring",
    ),
}

permission_commands = typer.Typer()
permissions = typer.Typer(help="What each kind of user needs of a service, and nothing else.", no_args_is_help=True)
permission_commands.add_typer(permissions, name="permissions")


@permissions.callback()
def _permissions() -> None:
    """A command of its own for each service."""


@permissions.command()
def rabbitmq(
    users: Annotated[
        list[str] | None,
        typer.Option(
            "--user",
            metavar="ROLE=NAME",
            help=f"A user, and what it is: {', '.join(ROLES)}. May be repeated. The default is one of each.",
        ),
    ] = None,
    vhost: Annotated[str, typer.Option(help="The virtual host.")] = "/",
    existing_users: Annotated[
        bool, typer.Option("--existing-users", help="Only permissions, for users that are there already.")
    ] = False,
) -> None:
    """Print definitions for `rabbitmqctl import_definitions`: users, permissions, topic permissions.

    The users have no password, so nobody can enter as one before `rabbitmqctl change_password`. A user that is there
    already would lose its password: with --existing-users there are only the permissions.
    """
    chosen = [_user(each) for each in users] if users else [(f"export-runs-{role}", role) for role in ROLES]
    if len({name for name, _ in chosen}) < len(chosen):
        raise typer.BadParameter("names a user twice", param_hint="--user")
    print_json(definitions(chosen, vhost, with_users=not existing_users))
    if not existing_users:
        err.print_line("users that are there already lose their passwords by this; --existing-users leaves them alone")


def _user(text: str) -> tuple[str, str]:
    role, _, name = text.partition("=")
    if role not in ROLES:
        raise typer.BadParameter(f"must begin with one of {', '.join(ROLES)}", param_hint="--user")
    if not 0 < len(name.encode()) <= USER_NAME_MAX:
        raise typer.BadParameter(
            f"must be ROLE=NAME, with a name of at most {USER_NAME_MAX} bytes", param_hint="--user"
        )
    return name, role


def definitions(users: Sequence[tuple[str, str]], vhost: str, *, with_users: bool) -> dict[str, Any]:
    """The definitions for users, each with one of ROLES, in the form of RabbitMQ."""
    entries: dict[str, Any] = {}
    if with_users:
        entries["users"] = [
            {
                "name": name,
                "password_hash": "",
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ROLES[role].tags,
            }
            for name, role in users
        ]
        entries["vhosts"] = [{"name": vhost}]
    entries["permissions"] = [
        {
            "user": name,
            "vhost": vhost,
            "configure": ROLES[role].configure,
            "write": ROLES[role].write,
            "read": ROLES[role].read,
        }
        for name, role in users
    ]
    entries["topic_permissions"] = [
        {"user": name, "vhost": vhost, "exchange": exchange, "write": topics, "read": NOTHING}
        for name, role in users
        for exchange, topics in ROLES[role].topics
    ]
    return entries
