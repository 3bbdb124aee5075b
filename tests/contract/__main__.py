"""`python -m tests.contract`: keep the contract of the version that is about to be released.

It keeps the schemas, and the messages that come and go when the examples of docs/CONTRACT.md are sent to a worker.
"""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

from aio_pika.exceptions import ChannelNotFoundEntity

from cli.console import DISTRIBUTION
from cli.contract.json_schemas import schema_files
from cli.contract.pages import Block, blocks
from local.processes import GuardedProcess
from local.services import services
from schema.errors import ErrorCode
from schema.names import RPC_EXCHANGE
from tests.commands import COMMAND
from tests.contract.playing import played
from tests.contract.versions import FOLDER, Message, write_version
from tests.pages import read
from tests.wire import POLL_S, WAIT_S, Wire

STOP_TIMEOUT_S = 30


def record(amqp_url: str, examples: list[Block]) -> list[Message]:
    """The messages that come and go when these examples are sent to a worker."""

    async def run() -> list[Message]:
        await until_declared(amqp_url)
        async with Wire.connect(amqp_url) as wire:
            await wire.ready()
            messages: list[Message] = []
            async for block, body in played(wire, examples):
                if block.info[1] not in ("event", "request", "reply", "alert"):
                    continue
                messages.append(Message(block.info[1], block.info[2], body))
                if body.get("error", {}).get("code") == ErrorCode.INVALID_REQUEST:
                    messages[-2] = replace(messages[-2], kind="refused")
            return messages

    return asyncio.run(run())


async def until_declared(amqp_url: str) -> None:
    """Wait until a worker has declared its exchanges."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                async with Wire.connect(amqp_url) as wire:
                    await wire.channel.get_exchange(RPC_EXCHANGE)
                    return
            except ChannelNotFoundEntity:
                await asyncio.sleep(POLL_S)


def main() -> int:
    """Record this version."""
    version = metadata.version(DISTRIBUTION)
    if (FOLDER / version).exists():
        print(f"version {version} is kept already: pyproject.toml must name the version that is to be released")
        return 1
    with services() as running:
        environment = {**os.environ, **running.environment()}
        subprocess.run([COMMAND, "migrate"], env=environment, check=True)
        worker = GuardedProcess([COMMAND, "worker"], environment=environment)
        try:
            examples = [block for block in blocks(read("docs/CONTRACT.md")) if block.info[:1] == ("json",)]
            messages = record(running.amqp_url, examples)
        finally:
            worker.stop(signal.SIGTERM, STOP_TIMEOUT_S)
    write_version(version, schema_files(), messages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
