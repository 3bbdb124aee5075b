"""The command `export-runs dead-letters`: look at events that could not be processed, replay or discard them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated, Final
from uuid import uuid4

import typer

from cli.broker import broker_errors, open_broker
from cli.console import Exit, fail, operator_name, read_settings
from cli.dead_letters.actions import (
    Action,
    ActionReport,
    DiscardAction,
    ReplayAction,
    apply_action,
    check_event_queues,
)
from cli.dead_letters.display import (
    held_text,
    letter_json,
    list_json,
    obstacles_text,
    report_json,
    show_letter,
    show_list,
    show_report,
    summaries,
)
from cli.dead_letters.letter import DeadLetter, Selection
from cli.dead_letters.options import (
    AsJson,
    AsJsonLines,
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
from cli.dead_letters.queues import QueueBrowser, QueueCounts, open_browser
from cli.errors import errors_explained
from cli.terminal import err, out, print_json
from worker.broker.publisher import open_publisher
from worker.database.pool import connect
from worker.settings import BrokerSettings, DatabaseSettings

LISTED_DEFAULT: Final = 100

dead_letter_commands = typer.Typer()
dead_letters = typer.Typer(
    help="Look at the events that could not be processed; replay or discard them.",
    epilog="While a command reads a queue, other commands do not see the messages that it has read.",
    no_args_is_help=True,
)
dead_letter_commands.add_typer(dead_letters, name="dead-letters")


@dead_letters.command("list")
def list_(
    queue: QueueOption = None,
    message_ids: MessageIds = None,
    error_code: ErrorCode = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = LISTED_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the oldest first, and how many there are in each queue.

    The error code is the worker's, or DELIVERY_LIMIT (RabbitMQ delivered the event too often), or UNROUTABLE.
    """
    selection = selection_of(message_ids, error_code, older_than, newer_than, limit)
    listed: list[DeadLetter] = []
    counts: list[QueueCounts] = []

    async def run() -> None:
        async with open_browser(read_settings(BrokerSettings)) as browser:
            counts.extend([await browser.count(each) for each in queues_of(queue)])
            async for letter, _ in browser.letters(counts, selection):
                listed.append(letter)

    with errors_explained():
        asyncio.run(run())
    if as_json:
        print_json(list_json(counts, listed))
        return
    show_list(out, counts, listed)
    for line in summaries(counts):
        out.print_line(line)


@dead_letters.command()
def show(
    queue: QueueOption = None,
    message_ids: MessageIds = None,
    error_code: ErrorCode = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    as_json: AsJsonLines = False,
) -> None:
    """Show dead letters with their properties, headers and body. Needs --message-id, or --limit 1."""
    selection = selection_of(message_ids, error_code, older_than, newer_than, limit)
    if not message_ids and limit != 1:
        fail(Exit.USAGE, "--message-id: is needed, or --limit 1 for the first dead letter")

    async def run() -> list[QueueCounts]:
        async with open_browser(read_settings(BrokerSettings)) as browser:
            counts = [await browser.count(each) for each in queues_of(queue)]
            async for letter, delivery in browser.letters(counts, selection):
                if as_json:
                    print_json(letter_json(letter, delivery), indent=None)
                else:
                    show_letter(out, letter, delivery)
            return counts

    with errors_explained():
        counts = asyncio.run(run())
    if not any(each.selected for each in counts):
        fail(Exit.REFUSED, "there is no such dead letter", *filter(None, [held_text(counts)]))


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be replayed, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish dead letters again, as they were first published.

    Safe to repeat and to interrupt: each letter leaves its queue only after RabbitMQ has confirmed the new message,
    and an event that arrives twice counts once. An event that fails again becomes a dead letter again, with the
    number of its replays; one command replays it once. Exit code 1: some were left, and --to-type may help.
    """
    selection = selection_of(message_ids, error_code, older_than, newer_than, limit)
    if to_type is not None and queue is None:
        fail(Exit.USAGE, "--to-type: needs --queue, or it would change the type of every dead letter")
    settings = read_settings(BrokerSettings)
    replay_id = str(uuid4())
    selection = replace(selection, not_replayed_by=replay_id)

    async def open_action(stack: AsyncExitStack, browser: QueueBrowser) -> Action:
        await check_event_queues(browser)
        chosen = bool(message_ids or error_code)
        if dry_run:
            return ReplayAction(None, replay_id, to_type, rate, settings.user_id, chosen=chosen)
        # Its own connection: a broker short of memory stops reading from connections that publish.
        link = await stack.enter_async_context(open_broker(settings, "replaying"))
        with broker_errors():
            publisher = await stack.enter_async_context(open_publisher(link, lambda reason: None))
        return ReplayAction(publisher, replay_id, to_type, rate, settings.user_id, chosen=chosen)

    _apply(settings, queue, selection, open_action, "replay", dry_run=dry_run, as_json=as_json)


@dead_letters.command()
def discard(
    reason: Reason,
    queue: QueueOption = None,
    message_ids: MessageIds = None,
    error_code: ErrorCode = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    all_: Annotated[bool, typer.Option("--all", help="All dead letters, without any other condition.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without --yes the command only says what it would do.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove dead letters from their queues. Needs a condition, or --all.

    Each letter leaves its queue only after the event log has its body, the reason, and who discarded it. Safe to
    repeat and to interrupt: the same dead letter is logged once.
    """
    selection = selection_of(message_ids, error_code, older_than, newer_than, limit)
    conditions = bool(message_ids or error_code or older_than or newer_than)
    if not conditions and not all_:
        fail(Exit.USAGE, "--all: is needed, or one of --message-id, --error-code, --older-than, --newer-than")
    if conditions and all_:
        fail(Exit.USAGE, "--all: contradicts --message-id, --error-code, --older-than and --newer-than")
    settings = read_settings(BrokerSettings)
    database = read_settings(DatabaseSettings) if yes else None

    async def open_action(stack: AsyncExitStack, browser: QueueBrowser) -> Action:
        if database is None:
            return DiscardAction(None, reason, operator_name())
        connection = await stack.enter_async_context(connect(database))
        return DiscardAction(connection, reason, operator_name())

    _apply(settings, queue, selection, open_action, "discard", dry_run=not yes, as_json=as_json)
    if not yes:
        err.print_line("nothing was done; add --yes to do it")


def _apply(
    settings: BrokerSettings,
    queue: str | None,
    selection: Selection,
    open_action: Callable[[AsyncExitStack, QueueBrowser], Awaitable[Action]],
    verb: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Apply an action to the selected dead letters, and print how far it came. Exit code 1 if it left some."""
    report = ActionReport()
    counts: list[QueueCounts] = []

    async def run(show_progress: Callable[[int, int], None]) -> None:
        async with AsyncExitStack() as stack:
            browser = await stack.enter_async_context(open_browser(settings))
            action = await open_action(stack, browser)
            counts.extend([await browser.count(each) for each in queues_of(queue)])
            total = sum(each.ready for each in counts)

            def on_progress() -> None:
                show_progress(sum(each.read for each in counts), total)

            await apply_action(action, browser, counts, selection, report, on_progress, dry_run=dry_run)
            report.left = sum(each.selected for each in counts) - report.applied.total()

    with errors_explained():
        try:
            with err.progress_bar(verb) as show_progress:
                asyncio.run(run(show_progress))
        finally:
            if as_json:
                print_json(report_json(report, verb, dry_run=dry_run))
            else:
                show_report(out, report, verb, dry_run=dry_run)
    if held := held_text(counts):
        err.print_line(held)
    if report.left:
        fail(Exit.REFUSED, obstacles_text(report))
