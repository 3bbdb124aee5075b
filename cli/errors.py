"""The errors of a command that uses a service, as lines that a person can read and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from cli.broker import broker_errors_explained
from cli.console import Exit, FileRefused, fail
from cli.terminal import Terminal, err
from handlers.errors import RequestRefused
from handlers.rebuild import RebuildRefused
from handlers.reports import ReportRefused
from worker.broker.declaration import TopologyMismatch
from worker.database.errors import DatabaseRefused
from worker.database.migrations import MigrationHeldUp
from worker.database.misconfiguration import misconfiguration
from worker.settings import DATABASE_URL


@contextmanager
def errors_explained(to: Terminal = err) -> Iterator[None]:
    """End the command with one line and an exit code for each error that a person can mend. The rest are bugs.

    The line goes to standard error, or `to` another output.
    """
    try:
        with broker_errors_explained(to):
            yield
    except RequestRefused as refused:
        details = [f"  {each.field}: {each.message}" for each in refused.details]
        fail(Exit.REFUSED, f"{refused.code}: {refused.message}", *details, to=to)
    except (DatabaseRefused, FileRefused, RebuildRefused, ReportRefused, TopologyMismatch) as refused:
        fail(Exit.REFUSED, str(refused), to=to)
    except MigrationHeldUp as held_up:
        fail(Exit.UNREACHABLE, str(held_up), to=to)
    except BrokenPipeError:
        raise  # the program that reads the output has ended; typer ends quietly
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if sentence := misconfiguration(error):
            fail(Exit.USAGE, f"{DATABASE_URL}: {sentence}", to=to)
        fail(Exit.UNREACHABLE, f"the database cannot be used: {type(error).__name__}: {error}", to=to)
