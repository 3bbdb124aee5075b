"""How commands speak to a person: exit codes, settings, and errors as one line each."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn, TypeVar

import asyncpg
import typer
from pydantic import ValidationError
from pydantic_settings import BaseSettings
from rich.console import Console

from worker.client import RequestFailed, Unreachable
from worker.migrations import MigrationRefused
from worker.topology import TopologyMismatch


class Exit(IntEnum):
    """What the exit code of a command means."""

    DONE = 0
    REFUSED = 1
    """Understood, and not possible: no such run, a file with invalid lines, a schema that does not match."""

    USAGE = 2
    """The command line or the environment is wrong."""

    UNREACHABLE = 3
    """RabbitMQ, PostgreSQL or the worker does not answer."""

    EXPORTED = 4
    """`claims check`: at least one of the claims has gone out."""


Settings = TypeVar("Settings", bound=BaseSettings)

TABLE_COLUMNS_MIN = 140
"""Room for a run in one line; a narrower terminal wraps it, which loses nothing."""

out = Console()
out.width = max(out.width, TABLE_COLUMNS_MIN)
err = Console(stderr=True)


def read_settings(model: type[Settings]) -> Settings:
    """Settings from the environment; where they are wrong the command ends, naming the variables."""
    try:
        return model()
    except ValidationError as error:
        for each in error.errors(include_input=False, include_url=False):
            variable = "EXPORT_RUNS_" + "_".join(map(str, each["loc"])).upper()
            complain(f"{variable}: {'is not set' if each['type'] == 'missing' else each['msg']}")
        raise typer.Exit(Exit.USAGE) from None


@contextmanager
def failures_explained() -> Iterator[None]:
    """Turn what a person can understand into one line and an exit code; what is left is a bug."""
    try:
        yield
    except RequestFailed as failed:
        details = "".join(f"\n  {each.field}: {each.message}" for each in failed.error.details)
        code = Exit.UNREACHABLE if failed.error.retryable else Exit.REFUSED
        fail(code, f"{failed.error.code}: {failed.error.message}{details}")
    except (MigrationRefused, TopologyMismatch) as refused:
        fail(Exit.REFUSED, str(refused))
    except Unreachable as unreachable:
        fail(Exit.UNREACHABLE, str(unreachable))
    except BrokenPipeError:
        raise  # whoever reads the output has had enough; typer ends quietly
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        fail(Exit.UNREACHABLE, f"the database cannot be used: {type(error).__name__}: {error}")


def complain(message: str) -> None:
    """Say something on standard error."""
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def fail(code: Exit, message: str) -> NoReturn:
    """Say what is wrong, and end the command."""
    complain(message)
    raise typer.Exit(code)
