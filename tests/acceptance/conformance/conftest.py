"""A RabbitMQ on which no worker was, and ways to play scenarios to a program."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aio_pika
import pytest

from cli.conformance.playing import Played, play_all
from cli.conformance.scenarios import SCENARIOS, Role
from tests.wire import WAIT_S
from worker.broker.topology import TOPOLOGY
from worker.settings import BrokerSettings

PROGRAMS: Final = "tests.acceptance.conformance.programs"
TIMEOUT_S: Final = 60.0

Play = Callable[..., Awaitable[list[Played]]]


@pytest.fixture
async def kit_url(amqp_url: str) -> str:
    """The broker without the queues of a worker. The next test that runs a worker has them made anew."""
    async with await aio_pika.connect(amqp_url, timeout=WAIT_S) as connection:
        channel = await connection.channel()
        for queue in TOPOLOGY.queues:
            await channel.queue_delete(queue.name)
    return amqp_url


@pytest.fixture
def play(kit_url: str) -> Play:
    """Play scenarios to one of the programs, with an argument."""
    settings = BrokerSettings.model_validate({"amqp_url": kit_url})

    async def run(
        role: Role, program: str, *arguments: str, only: str = "", timeout_s: float = TIMEOUT_S
    ) -> list[Played]:
        scenarios = [each for each in SCENARIOS[role] if only in ("", each.name)]
        assert scenarios
        command = (sys.executable, "-m", f"{PROGRAMS}.{program}", *arguments)
        return [played async for played in play_all(settings, scenarios, command, timeout_s)]

    return run


def rules_broken(played: list[Played]) -> list[str]:
    """The names of the rules that were broken."""
    return [finding.rule.name for each in played for finding in each.findings]


def path_of(program: str) -> Path:
    """The file of one of the programs."""
    return Path(__file__).parent / "programs" / f"{program}.py"
