"""What every command shares: exit codes, settings, and errors that a person can read."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final, NoReturn, TypeVar

import asyncpg
import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from cli.broker import Unreachable
from cli.event_file import UnreadableFile
from cli.request_client import RequestFailed
from cli.terminal import Terminal, err
from handlers.errors import RequestRefused
from handlers.rebuild import RebuildRefused
from handlers.reports import ReportRefused
from worker.broker.declaration import TopologyMismatch
from worker.database.errors import DatabaseRefused
from worker.database.migrations import MigrationHeldUp
from worker.database.misconfiguration import misconfiguration
from worker.settings import DATABASE_URL, Misconfiguration

DISTRIBUTION: Final = "export-run-repository"
"""The name under which the service is installed."""


class Exit(IntEnum):
    """What the exit code of a command means."""

    DONE = 0
    REFUSED = 1
    """The command cannot be carried out: no such run, a file with invalid lines, a schema that does not match."""

    USAGE = 2
    """The command line or the environment is wrong."""

    UNREACHABLE = 3
    """RabbitMQ, PostgreSQL or the worker does not answer."""

    EXPORTED = 4
    """`claims check`: at least one of the claims is exported or reserved."""


Settings = TypeVar("Settings", bound=BaseSettings)


def read_settings(model: type[Settings]) -> Settings:
    """Read settings from the environment. If one is wrong, the command ends and names the variable."""
    try:
        return model()
    except ValidationError as error:
        for each in error.errors(include_input=False, include_url=False):
            variable = "EXPORT_RUNS_" + "_".join(map(str, each["loc"])).upper()
            err.print_line(f"{variable}: {_wrong_setting(each)}")
        raise typer.Exit(Exit.USAGE) from None


def _wrong_setting(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "missing":
            return "is not set"
        case "value_error":
            return str(detail["ctx"]["error"])
        case _:
            return detail["msg"]


@contextmanager
def errors_explained(to: Terminal = err) -> Iterator[None]:
    """End the command with one line and an exit code for each error that a person can mend. The rest are bugs.

    The line goes to standard error, or `to` another output.
    """
    try:
        yield
    except RequestFailed as failed:
        code = Exit.UNREACHABLE if failed.error.retryable else Exit.REFUSED
        details = [f"  {each.field}: {each.message}" for each in failed.error.details]
        fail(code, f"{failed.error.code}: {failed.error.message}", *details, to=to)
    except RequestRefused as refused:
        details = [f"  {each.field}: {each.message}" for each in refused.details]
        fail(Exit.REFUSED, f"{refused.code}: {refused.message}", *details, to=to)
    except (DatabaseRefused, RebuildRefused, ReportRefused, TopologyMismatch, UnreadableFile) as refused:
        fail(Exit.REFUSED, str(refused), to=to)
    except (MigrationHeldUp, Unreachable) as unreachable:
        fail(Exit.UNREACHABLE, str(unreachable), to=to)
    except BrokenPipeError:
        raise  # the program that reads the output has ended; typer ends quietly
    except Misconfiguration as misconfigured:
        fail(Exit.USAGE, str(misconfigured), to=to)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if sentence := misconfiguration(error):
            fail(Exit.USAGE, f"{DATABASE_URL}: {sentence}", to=to)
        fail(Exit.UNREACHABLE, f"the database cannot be used: {type(error).__name__}: {error}", to=to)


def fail(code: Exit, *lines: str, to: Terminal = err) -> NoReturn:
    """Print what is wrong on standard error, or `to` another output, and end the command."""
    for line in lines:
        to.print_line(line)
    raise typer.Exit(code)


def operator_name() -> str:
    """The user who runs the command; a container may have no name for that user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
