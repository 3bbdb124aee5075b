"""The command `export-runs publish`."""

import asyncio
from functools import partial
from typing import Annotated

import typer

from cli.broker import broker_errors_explained
from cli.console import AsJson, Exit, FileRefused, fail, read_settings
from cli.event_file import LineCounts, publish_lines
from cli.request_client import open_client, publish_event
from cli.terminal import err, out, print_json
from worker.settings import BrokerSettings

publish_commands = typer.Typer()


@publish_commands.command()
def publish(
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(metavar="FILE", help="JSON Lines, one event per line; - is standard input."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate the events, publish nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish events from a file; RabbitMQ confirms each. Safe to repeat.

    A line is an event of the contract with its type beside its fields:
    {"type": "run-created", "eventId": "...", ...}. Invalid lines are reported and skipped, and the exit code is 1.
    """
    counts = LineCounts()
    settings = None if dry_run else read_settings(BrokerSettings)

    async def run() -> None:
        if settings is None:
            await publish_lines(file, None, counts, err.print_line)
            return
        async with open_client(settings) as link:
            await publish_lines(file, partial(publish_event, link), counts, err.print_line)

    try:
        with broker_errors_explained():
            asyncio.run(run())
    except FileRefused as refused:
        fail(Exit.REFUSED, str(refused))
    finally:
        if as_json:
            print_json({"dryRun": dry_run, "valid": counts.valid, "invalid": counts.invalid})
        else:
            out.print_line(f"{counts.valid:,} {'valid' if dry_run else 'published'}, {counts.invalid:,} invalid")
    if counts.invalid:
        raise typer.Exit(Exit.REFUSED)
