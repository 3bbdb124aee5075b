"""What every command shares: exit codes, the option `--json`, settings, how it fails."""

import getpass
import os
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from cli.terminal import Terminal, err

DISTRIBUTION: Final = "export-run-repository"
"""The name under which the service is installed."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


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


class FileRefused(Exception):
    """A file that a command cannot read or write, or that does not hold what it must. The text says why."""


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


def new_file_option(text: str) -> Path:
    """The path of a file that a command makes. Raises BadParameter where there is one: somebody may need it."""
    path = Path(text)
    if os.path.lexists(path):
        raise typer.BadParameter(f"{path} is there already; give another name, or move that file away")
    return path


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
