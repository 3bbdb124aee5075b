"""The command `export-runs`. Results go to standard output, everything else to standard error."""

import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from io import TextIOWrapper
from pkgutil import resolve_name
from typing import Annotated, Any, Final, NoReturn

import typer
import typer.core
import typer.main

from cli.console import DISTRIBUTION, Exit
from cli.terminal import err, out
from worker import logs
from worker.broker.malformed_frames import tolerate_malformed_properties

COMMAND: Final = "export-runs"

EXIT_CODES_HELP: Final = (
    "Exit codes: 0 done, 1 refused, 2 wrong usage or environment, 3 a service does not answer, "
    "4 (claims check) at least one claim is exported or reserved."
)

COMMANDS: Final = {
    "worker": "cli.worker_command:worker_commands",
    "health": "cli.health_command:health_commands",
    "migrate": "cli.database_commands:database_commands",
    "purge": "cli.database_commands:database_commands",
    "unpurge": "cli.database_commands:database_commands",
    "after-restore": "cli.database_commands:database_commands",
    "publish": "cli.publish_command:publish_commands",
    "history": "cli.request_commands:request_commands",
    "period": "cli.request_commands:request_commands",
    "last-export": "cli.request_commands:request_commands",
    "run": "cli.request_commands:request_commands",
    "reverse": "cli.request_commands:request_commands",
    "stale": "cli.request_commands:request_commands",
    "claims": "cli.request_commands:request_commands",
    "double-exports": "cli.request_commands:request_commands",
    "verify": "cli.log_commands:log_commands",
    "rebuild": "cli.log_commands:log_commands",
    "status": "cli.status:status_commands",
    "contract": "cli.contract.commands:contract_commands",
    "conformance": "cli.conformance.commands:conformance_commands",
    "topology": "cli.topology:topology_commands",
    "import": "cli.imports.commands:import_commands",
    "compare": "cli.imports.compare_command:compare_commands",
    "report": "cli.reports.commands:report_commands",
    "dead-letters": "cli.dead_letters.commands:dead_letter_commands",
    "permissions": "cli.permissions:permission_commands",
}
"""For each command, in the order of the help, the object that has it. Its module is imported when it is needed."""


class LateCommands(typer.core.TyperGroup):
    """The commands, each imported when it is called, and all of them for the help: to import takes longest."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        _make_help_readable(self)

    def list_commands(self, ctx: Any) -> list[str]:
        """All names."""
        self._import(COMMANDS)
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One command. For a name that is none all are imported: typer suggests one that is spelt like it."""
        self._import([cmd_name] if cmd_name in COMMANDS else COMMANDS)
        return self.commands.get(cmd_name)

    def _import(self, names: Iterable[str]) -> None:
        for name in names:
            command = typer.main.get_group(resolve_name(COMMANDS[name])).commands[name]
            _make_help_readable(command)
            self.commands[name] = command


def _make_help_readable(command: Any) -> None:
    """typer would break lines where the docstring has its line ends, and show a flag as if it took a value."""
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in command.help.split("\n\n"))
    for parameter in command.get_params(typer.Context(command)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for subcommand in getattr(command, "commands", {}).values():
        _make_help_readable(subcommand)


app = typer.Typer(
    cls=LateCommands,
    help="The record of every export run: which expense claims are already exported.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        out.print_line(f"{COMMAND} {metadata.version(DISTRIBUTION)}")
        raise typer.Exit(Exit.DONE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options without a command."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the command: run it with these arguments, or with those of the process, and exit."""
    tolerate_malformed_properties()
    logs.configure("error")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the locale may lack a character that is to be printed
    try:
        code = app(arguments, prog_name=COMMAND, standalone_mode=False)
    except typer.TyperException as error:
        code = _explain_usage(error)
    sys.exit(code)


def _explain_usage(error: typer.TyperException) -> int:
    """Print what is wrong with the command line. Typer would print parts of it raw."""
    context, message = getattr(error, "ctx", None), error.format_message()
    if message:  # a command without arguments has printed its help instead
        if context is not None:
            err.print_line(context.get_usage())
            err.print_line(f"Try '{context.command_path} --help' for help.")
        err.print_line(f"Error: {message}")
    return error.exit_code
