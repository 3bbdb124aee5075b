"""What a command does not need is not imported: most of a short command's time goes into its imports."""

import subprocess
import sys

import pytest

from cli.main import COMMANDS

SLOW_LIBRARIES = {"aiohttp", "jinja2", "openpyxl", "pygal", "xlsxwriter", "yaml"}
COMMAND_MODULES = {place.partition(":")[0] for place in COMMANDS.values()}


def modules_of(command: str) -> set[str]:
    """The modules that are imported when a command is called, in a process of its own."""
    program = f"import sys; from cli.main import *; typer.main.get_group(app).get_command(None, {command!r})"
    program += "; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("command", ["worker", "status", "verify", "dead-letters"])
def test_a_command_starts_without_the_others_and_their_libraries(command: str) -> None:
    own = COMMANDS[command].partition(":")[0]
    assert modules_of(command) & (COMMAND_MODULES | SLOW_LIBRARIES | {"export_runs_client"}) == {own}


@pytest.mark.parametrize("command", ["publish", "claims"])
def test_a_command_that_uses_the_client_starts_without_the_service(command: str) -> None:
    """The models of the contract are built once, the client's; to build the service's as well takes as long again."""
    own = COMMANDS[command].partition(":")[0]
    service = {
        "handlers",
        "prometheus_client",
        "schema.operations",
        "schema.results",
        "sql",
        "asyncpg",
        "worker.database",
    }
    assert modules_of(command) & (COMMAND_MODULES | SLOW_LIBRARIES | service) == {own}


def test_a_look_at_the_health_starts_without_the_service() -> None:
    others = COMMAND_MODULES - {COMMANDS["health"].partition(":")[0]}
    service = {
        "handlers",
        "prometheus_client",
        "schema.results",
        "aio_pika",
        "asyncpg",
        "worker.app",
        "worker.database",
    }
    assert modules_of("health") & (others | service | SLOW_LIBRARIES) == set()


def test_every_command_is_where_the_table_says() -> None:
    program = "from cli.main import *; print(*typer.main.get_group(app).list_commands(None))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == list(COMMANDS)
