"""The command `export-runs status`: one look at the broker, its queues, the database and the worker on this machine.

It asks by AMQP and SQL, and the worker by HTTP, so it needs no management plugin. What cannot be asked hides nothing
else.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import asyncpg
import typer
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import sql
from cli.broker import Unreachable, broker_errors, open_broker
from cli.console import Exit, read_settings
from cli.health_check import ask_health, get
from cli.terminal import Cell, Column, ResultTable, Terminal, out, print_json
from cli.times import age_text
from handlers.backlog import BACKLOG_COUNTED_MAX, Backlog, count_backlog
from schema import names
from worker.broker.link import broker_product
from worker.broker.queue_states import QueueState, queue_states
from worker.database.activity import DatabaseActivity, get_activity
from worker.database.errors import DatabaseRefused
from worker.database.gate import Gate
from worker.database.misconfiguration import misconfiguration
from worker.database.pool import connect, database_product, session_settings
from worker.jobs.backlog import OTHER_QUEUES, REQUEST_QUEUES
from worker.routes import Part
from worker.settings import HTTP_PORT, Misconfiguration, WorkerSettings

WATCH_INTERVAL_S: Final = 2.0
LOOK_TIMEOUT_S: Final = 15.0
"""A service that takes longer does not answer."""

DEAD_LETTER_QUEUES: Final = tuple(
    name for name in OTHER_QUEUES if name.endswith(".dead") or name == names.UNROUTABLE_QUEUE
)

NOT_TOLD: Final = (
    "AMQP tells neither the rates in and out of a queue nor the age of its oldest message: the management plugin has "
    "the rates, `export-runs dead-letters list` the ages of dead letters."
)

status_commands = typer.Typer()


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """RabbitMQ and its queues; None of a queue that is missing, or of which RabbitMQ says nothing."""

    product: str
    queues: dict[str, QueueState | None]


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """PostgreSQL, and what waits in it."""

    product: str
    activity: DatabaseActivity
    backlog: Backlog


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The worker on this machine, and the events that it has stored since its start; None where it does not tell."""

    is_ready: bool
    obstacles: dict[str, list[str]]
    """By part."""

    version: str
    """Empty where it does not tell."""

    events_stored: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """One look. A text in place of a status says why there is none."""

    broker: BrokerStatus | str
    database: DatabaseStatus | str
    worker: WorkerStatus | str

    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    at_s: float = field(default_factory=time.monotonic)


Shown = TypeVar("Shown")


@status_commands.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each look as one JSON object.")] = False,
) -> None:
    """Show the broker, its queues, the database, what waits in both, and the worker on this machine.

    Needs both URLs. The worker is asked if EXPORT_RUNS_HTTP_PORT is set. Exit code 3 if RabbitMQ or PostgreSQL cannot
    be asked, and why; the rest is shown all the same.
    """
    settings = read_settings(WorkerSettings)
    try:
        latest = asyncio.run(_watch(settings, as_json=as_json) if watch else _look_once(settings, as_json=as_json))
    except KeyboardInterrupt:
        raise typer.Exit(Exit.DONE) from None
    if isinstance(latest.broker, str) or isinstance(latest.database, str):
        raise typer.Exit(Exit.UNREACHABLE)


async def _look_once(settings: WorkerSettings, *, as_json: bool) -> Status:
    latest = await _look(settings)
    if as_json:
        print_json(_json(latest, None))
    else:
        _show(out, latest, None)
    return latest


async def _watch(settings: WorkerSettings, *, as_json: bool) -> Status:
    earlier: Status | None = None
    while True:
        latest = await _look(settings)
        if as_json:
            print_json(_json(latest, earlier), indent=None)
        else:
            out.clear()
            _show(out, latest, earlier)
        earlier = latest
        await asyncio.sleep(WATCH_INTERVAL_S)


async def _look(settings: WorkerSettings) -> Status:
    return Status(
        *await asyncio.gather(
            _within(LOOK_TIMEOUT_S, _look_at_broker(settings), "RabbitMQ does not answer in time"),
            _within(LOOK_TIMEOUT_S, _look_at_database(settings), "PostgreSQL does not answer in time"),
            asyncio.to_thread(_look_at_worker, settings),
        )
    )


async def _within(seconds: float, look: Awaitable[Shown | str], otherwise: str) -> Shown | str:
    """What a look finds, or `otherwise` if that takes too long."""
    looking = asyncio.ensure_future(look)
    looking.add_done_callback(lambda task: task.cancelled() or task.exception())
    # Not asyncio.timeout: to close a connection that is frozen takes longer.
    try:
        done, _ = await asyncio.wait({looking}, timeout=seconds)
    finally:
        looking.cancel()
    return looking.result() if done else otherwise


async def _look_at_broker(settings: WorkerSettings) -> BrokerStatus | str:
    try:
        async with open_broker(settings, "status") as link:
            queues: dict[str, QueueState | None] = {}
            # Apart, because a queue whose node is down gives no answer, and would hide the others.
            for some in (OTHER_QUEUES, REQUEST_QUEUES):
                with broker_errors():
                    try:
                        queues.update(await queue_states(link, some))
                    except TimeoutError:
                        queues.update(dict.fromkeys(some))
            return BrokerStatus(broker_product(link), queues)
    except (Unreachable, Misconfiguration) as error:
        return str(error)


async def _look_at_database(settings: WorkerSettings) -> DatabaseStatus | str:
    try:
        async with connect(settings, session_settings(settings)) as connection:
            await Gate(sql.migrations(), {}).check(connection)
            activity = await get_activity(connection)
            backlog = await count_backlog(connection, settings.stale_run_s)
            return DatabaseStatus(database_product(connection), activity, backlog)
    except DatabaseRefused as refused:
        return str(refused)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return misconfiguration(error) or f"the database cannot be used: {type(error).__name__}"


def _look_at_worker(settings: WorkerSettings) -> WorkerStatus | str:
    if settings.http_port is None:
        return f"unknown: {HTTP_PORT} is not set"
    host, port = settings.http_host, settings.http_port
    answer = ask_health(host, port)
    if answer is None:
        return f"no worker answers on {host} port {port}"
    samples = _samples(get(host, port, "/metrics") or "")
    versions = sorted({sample.labels["version"] for sample in samples if sample.name == "export_runs_build_info"})
    stores = any(sample.labels.get("part") in (Part.EVENTS, "all") for sample in samples)
    stored = sum(sample.value for sample in samples if sample.name == "export_runs_events_stored_total")
    return WorkerStatus(answer["ok"], answer["obstacles"], ", ".join(versions), int(stored) if stores else None)


def _samples(metrics: str) -> list[Sample]:
    """The numbers in an answer of /metrics; none where it is not one, or not a whole one."""
    try:
        return [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    except ValueError:
        return []


def _changes_per_s(latest: Status, earlier: Status | None) -> dict[str, float]:
    """By how many messages a second each queue has grown since the look before."""
    if earlier is None or isinstance(latest.broker, str) or isinstance(earlier.broker, str):
        return {}
    changes = {}
    for queue, state in latest.broker.queues.items():
        before = earlier.broker.queues.get(queue)
        if state is not None and before is not None:
            changes[queue] = (state.messages - before.messages) / (latest.at_s - earlier.at_s)
    return changes


def _stored_per_s(latest: Status, earlier: Status | None) -> float | None:
    """How many events the worker here has stored a second since the look before; None after it was started again."""
    if earlier is None or isinstance(latest.worker, str) or isinstance(earlier.worker, str):
        return None
    now, before = latest.worker.events_stored, earlier.worker.events_stored
    if now is None or before is None or now < before:
        return None
    return (now - before) / (latest.at_s - earlier.at_s)


def _show(terminal: Terminal, latest: Status, earlier: Status | None) -> None:
    broker, database, worker = latest.broker, latest.database, latest.worker
    fields = {"RabbitMQ": broker if isinstance(broker, str) else broker.product}
    if not isinstance(broker, str):
        fields["dead letters"] = f"{_messages(broker.queues, DEAD_LETTER_QUEUES):,}"
    if isinstance(database, str):
        fields["PostgreSQL"] = database
    else:
        fields["PostgreSQL"] = database.product
        fields["database size"] = f"{database.activity.size_bytes / 1024**2:,.0f} MiB"
        oldest = database.activity.oldest_transaction_at
        fields["oldest transaction"] = f"{age_text(oldest, latest.at)} old" if oldest else "none"
        for kind, number in database.backlog._asdict().items():
            fields[kind.replace("_", " ")] = f"{number:,}" + (" or more" if number >= BACKLOG_COUNTED_MAX else "")
    if isinstance(worker, str):
        fields["worker here"] = worker
    else:
        can_work = "can work" if worker.is_ready else "cannot work"
        obstacles = [f"{part}: {text}" for part, texts in worker.obstacles.items() for text in texts]
        version = f", version {worker.version}" if worker.version else ""
        fields["worker here"] = "\n".join([can_work + version, *obstacles])
        if worker.events_stored is not None:
            per_s = _stored_per_s(latest, earlier)
            rate = "" if per_s is None else f", {per_s:,.1f} a second"
            fields["events stored"] = f"{worker.events_stored:,} since its start{rate}"
    terminal.print_fields(fields)
    if not isinstance(broker, str):
        terminal.print_line()
        terminal.print_table(_queue_table(broker.queues, _changes_per_s(latest, earlier)))
        terminal.print_line()
        terminal.print_line(NOT_TOLD)


def _queue_table(queues: dict[str, QueueState | None], changes_per_s: dict[str, float]) -> ResultTable:
    table = ResultTable(
        [Column("Queue", is_whole=True)],
        [Column("Messages", is_whole=True, is_number=True)],
        [Column("Consumers", is_whole=True, is_number=True)],
        [Column("Change/s", is_whole=True, is_number=True)],
    )
    for name, state in queues.items():
        if state is None:
            table.add_row(name, Cell("unknown", "bold red"), "", "")
            continue
        is_bad = state.messages > 0 and name in DEAD_LETTER_QUEUES
        change = f"{changes_per_s[name]:+,.1f}" if name in changes_per_s else ""
        table.add_row(name, Cell(f"{state.messages:,}", "bold red" if is_bad else ""), f"{state.consumers:,}", change)
    return table


def _messages(queues: dict[str, QueueState | None], of: Sequence[str]) -> int:
    return sum(state.messages for name in of if (state := queues.get(name)))


def _json(latest: Status, earlier: Status | None) -> dict[str, Any]:
    changes_per_s = _changes_per_s(latest, earlier)

    def broker_json(broker: BrokerStatus) -> dict[str, Any]:
        return {
            "product": broker.product,
            "deadLetters": _messages(broker.queues, DEAD_LETTER_QUEUES),
            "queues": [
                {
                    "name": name,
                    "messages": state and state.messages,
                    "consumers": state and state.consumers,
                    "changePerSecond": changes_per_s.get(name),
                }
                for name, state in broker.queues.items()
            ],
        }

    def database_json(database: DatabaseStatus) -> dict[str, Any]:
        oldest = database.activity.oldest_transaction_at
        return {
            "product": database.product,
            "sizeBytes": database.activity.size_bytes,
            "oldestTransactionAt": oldest and oldest.isoformat(),
            "unpublishedAlerts": database.backlog.unpublished_alerts,
            "unresolvedDoubleExports": database.backlog.unresolved_double_exports,
            "staleRuns": database.backlog.stale_runs,
        }

    def worker_json(worker: WorkerStatus) -> dict[str, Any]:
        return {
            "ok": worker.is_ready,
            "obstacles": worker.obstacles,
            "version": worker.version or None,
            "eventsStored": worker.events_stored,
            "eventsStoredPerSecond": _stored_per_s(latest, earlier),
        }

    return {
        "at": latest.at.isoformat(),
        "broker": _part_json(latest.broker, broker_json),
        "database": _part_json(latest.database, database_json),
        "worker": _part_json(latest.worker, worker_json),
    }


def _part_json(part: Shown | str, to_json: Callable[[Shown], dict[str, Any]]) -> dict[str, Any]:
    return {"error": part} if isinstance(part, str) else to_json(part)
