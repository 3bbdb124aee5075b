"""What the log says of a session that was lost: the words of RabbitMQ, and how often."""

from dataclasses import replace

from structlog.typing import EventDict

from schema import names
from tests.conftest import running_worker
from tests.resilience.conftest import Wires
from tests.resilience.observing import Log, until_serving, until_steady
from tests.wire import Wire
from worker.database.pool import Pool
from worker.limits import DEFAULT_LIMITS
from worker.session import WorkerParts
from worker.settings import WorkerSettings

NO_SUCH_DELIVERY = 999_999
REPEAT_LOG_FIRST_S = 4


async def test_the_log_has_what_rabbitmq_said_of_a_channel(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, wires: Wires
) -> None:
    async with running_worker(settings, pool, wires.parts):
        await until_steady(wire)
        await wires.links["consuming"].underlay.basic_ack(NO_SUCH_DELIVERY)
        await log.until("session_lost")
        await until_serving(wire)
    [line] = log.of("session_lost")
    assert line["reason"].startswith("the channel for consuming closed: 406 PRECONDITION_FAILED")
    assert f"unknown delivery tag {NO_SUCH_DELIVERY}" in line["reason"]
    assert "Basic.Ack" in line["reason"]
    assert (line["times"], line["for_s"]) == (1, 0)


async def test_the_log_names_the_queue_whose_consumer_was_cancelled(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log
) -> None:
    queue = names.rpc_queue("list-stale-runs")
    async with running_worker(settings, pool):
        await until_steady(wire)
        await wire.channel.queue_delete(queue)
        await log.until("session_lost")
        await until_serving(wire)
    assert log.of("session_lost")[0]["reason"] == f"RabbitMQ cancelled a consumer: {queue}"


async def test_repeated_losses_are_counted_and_logged_again(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, wires: Wires
) -> None:
    """Not each of them, and not only the first. (Losses that are further apart than the first pause count anew.)"""
    limits = replace(
        DEFAULT_LIMITS, repeat_log_first_s=REPEAT_LOG_FIRST_S, retry_delay_first_s=0.05, retry_delay_max_s=0.05
    )
    lost: list[EventDict] = []
    async with running_worker(settings, pool, WorkerParts(open_link=wires.open_link, limits=limits)):
        while not any(line["times"] > 1 for line in logged_as_warnings(lost)):
            await until_serving(wire)
            await wires.links["consuming"].underlay.basic_ack(NO_SUCH_DELIVERY)
            await log.until("session_lost", len(log.of("session_lost")) + 1)
            # What is closed while it still starts may be lost for another reason.
            lost = [line for line in log.of("session_lost") if "406" in str(line["reason"])]
    first, last = logged_as_warnings(lost)[-2:]
    assert first["times"] == 1
    assert last is lost[-1]
    assert last["times"] == len(lost) - lost.index(first) > 2
    assert last["for_s"] >= REPEAT_LOG_FIRST_S


def logged_as_warnings(lines: list[EventDict]) -> list[EventDict]:
    """The others are for debugging."""
    return [line for line in lines if line["log_level"] == "warning"]
