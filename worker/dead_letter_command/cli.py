"""The command `export-runs dead-letters`: look at what could not be processed, decide what becomes of it."""

import asyncio
import getpass
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated, Final
from uuid import uuid4

import typer
from rich.progress import Progress

from worker import logs
from worker.console import Exit, complain, err, fail, failures_explained, out, read_settings
from worker.database import connect
from worker.dead_letter_command.box import DeadLetterBox, Tally, open_box, open_broker
from worker.dead_letter_command.facts import DeadLetter, Selection
from worker.dead_letter_command.options import (
    AsJson,
    ErrorCode,
    Limit,
    MessageIds,
    NewerThan,
    OlderThan,
    QueueOption,
    Rate,
    Reason,
    ToType,
    queues_of,
    selection_of,
)
from worker.dead_letter_command.tools import Discarder, Outcome, Replayer, Tool, check_event_queues, work_through
from worker.dead_letter_command.views import as_json, printable, show_letter, show_list, summaries
from worker.settings import BrokerSettings, DatabaseSettings

LISTED_DEFAULT: Final = 100

dead_letters = typer.Typer(
    help="Look at the events that could not be processed; replay or discard them.",
    epilog="While a command looks, what it has looked at is hidden from other commands; then it is back.",
    no_args_is_help=True,
)


@dead_letters.callback()
def _prepare() -> None:
    logs.configure("error")


@dead_letters.command("list")
def list_(
    queue: QueueOption = None,
    message_ids: MessageIds = None,
    error_code: ErrorCode = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = LISTED_DEFAULT,
    json_lines: AsJson = False,
) -> None:
    """List dead letters, the oldest first, and how many there are in each queue.

    The error code is the worker's, or DELIVERY_LIMIT (the broker's: it failed too often), or UNROUTABLE.
    """
    selection = selection_of(message_ids, error_code, older_than, newer_than, limit)
    listed: list[DeadLetter] = []
    tallies: list[Tally] = []

    async def run() -> None:
        async with open_box(read_settings(BrokerSettings)) as box:
            tallies.extend(await box.tallies(queues_of(queue)))
            async for letter, _ in box.letters(tallies, selection):
                listed.append(letter)

    with failures_explained():
        asyncio.run(run())
    if json_lines:
        for letter in listed:
            print(json.dumps(letter.model_dump(mode="json")))
    else:
        show_list(out, tallies, listed)
    for line in summaries(tallies):
        (complain if json_lines else _say)(line)


@dead_letters.command()
def show(
    queue: QueueOption = None,
    message_ids: MessageIds = None,
    error_code: ErrorCode = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    json_lines: AsJson = False,
) -> None:
    """Show whole dead letters: properties, headers, body. Takes --message-id, or --limit 1."""
    selection = selection_of(message_ids, error_code, older_than, newer_than, limit)
    if not message_ids and limit != 1:
        fail(Exit.USAGE, "--message-id: is needed, or --limit 1 for the first that there is")

    async def run() -> int:
        async with open_box(read_settings(BrokerSettings)) as box:
            tallies = await box.tallies(queues_of(queue))
            async for letter, delivery in box.letters(tallies, selection):
                if json_lines:
                    print(json.dumps(as_json(letter, delivery)))
                else:
                    show_letter(out, letter, delivery)
            return sum(tally.selected for tally in tallies)

    with failures_explained():
        shown = asyncio.run(run())
    if not shown:
        fail(Exit.REFUSED, "there is no such dead letter")


@dead_letters.command()
def replay(
    queue: QueueOption = None,
    message_ids: MessageIds = None,
    error_code: ErrorCode = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    to_type: ToType = None,
    rate: Rate = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be replayed, do nothing.")] = False,
) -> None:
    """Have dead letters tried again: publish them as they were first published.

    Safe to repeat and safe to interrupt: each leaves its queue only when the broker has confirmed the new
    message, and an event that arrives twice counts once. What fails again comes back, with the number of its
    replays; it is not replayed twice by one command. Exit code 1: some were left, --to-type may mend them.
    """
    selection = selection_of(message_ids, error_code, older_than, newer_than, limit)
    if to_type is not None and queue is None:
        fail(Exit.USAGE, "--to-type: needs --queue, or it would change the type of everything")
    settings = read_settings(BrokerSettings)
    replay_id = str(uuid4())
    selection = replace(selection, not_replayed_by=replay_id)

    async def open_tool(stack: AsyncExitStack, box: DeadLetterBox) -> Tool:
        await check_event_queues(box)
        if dry_run:
            return Replayer(None, replay_id, to_type, rate)
        # A connection of its own: a broker short of memory stops reading from those that publish.
        link = await stack.enter_async_context(open_broker(settings, "replaying", confirms=True))
        return Replayer(link, replay_id, to_type, rate)

    left = _work(settings, queue, selection, open_tool, "replay", dry_run=dry_run)
    if left:
        raise typer.Exit(Exit.REFUSED)


@dead_letters.command()
def discard(
    reason: Reason,
    queue: QueueOption = None,
    message_ids: MessageIds = None,
    error_code: ErrorCode = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them: without any other condition.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this: say what would be done.")] = False,
) -> None:
    """Throw dead letters away. Which, must be said: by a condition, or with --all.

    Each leaves its queue only when the event log has its body, the reason, and who discarded it. Safe to
    repeat and safe to interrupt: the same dead letter is logged once.
    """
    selection = selection_of(message_ids, error_code, older_than, newer_than, limit)
    conditions = bool(message_ids or error_code or older_than or newer_than)
    if not conditions and not all_:
        fail(Exit.USAGE, "--all: is needed, or one of --message-id, --error-code, --older-than, --newer-than")
    if conditions and all_:
        fail(Exit.USAGE, "--all: contradicts --message-id, --error-code, --older-than and --newer-than")
    settings = read_settings(BrokerSettings)
    database = read_settings(DatabaseSettings) if yes else None

    async def open_tool(stack: AsyncExitStack, box: DeadLetterBox) -> Tool:
        if database is None:
            return Discarder(None, reason, _operator())
        connection = await stack.enter_async_context(connect(database))
        return Discarder(connection, reason, _operator())

    _work(settings, queue, selection, open_tool, "discard", dry_run=not yes)
    if not yes:
        out.print("nothing was done; --yes does it")


def _work(
    settings: BrokerSettings,
    queue: str | None,
    selection: Selection,
    open_tool: Callable[[AsyncExitStack, DeadLetterBox], Awaitable[Tool]],
    verb: str,
    *,
    dry_run: bool,
) -> int:
    """Let a tool treat the selected dead letters, and say how far it came. Returns how many it left."""
    outcome = Outcome()

    async def run(progress: Progress) -> None:
        async with AsyncExitStack() as stack:
            box = await stack.enter_async_context(open_box(settings))
            tool = await open_tool(stack, box)
            tallies = await box.tallies(queues_of(queue))
            bar = progress.add_task(verb, total=sum(tally.waiting for tally in tallies))

            def dealt_with() -> None:
                progress.update(bar, completed=sum(tally.looked_at for tally in tallies))

            await work_through(box, tallies, selection, tool, outcome, dealt_with, dry_run=dry_run)
            outcome.left = sum(tally.selected for tally in tallies) - outcome.done.total()

    did = f"would {verb}" if dry_run else f"{verb}ed"
    with failures_explained():
        try:
            with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
                asyncio.run(run(progress))
        finally:
            _say(f"{did} {outcome.done.total():,} dead letters")
            for (name, code), count in sorted(outcome.done.items()):
                _say(f"  {name}: {count:,} {printable(code)}")
    if outcome.left:
        complain(f"left {outcome.left:,}: {printable('; '.join(sorted(outcome.obstacles)))}")
    return outcome.left


def _operator() -> str:
    """Who runs the command; a container may have no name for them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _say(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)
