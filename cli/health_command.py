"""The command `export-runs health`."""

import typer

from cli.console import AsJson, Exit, fail, read_settings
from cli.health_check import ask_health
from cli.terminal import out, print_json
from worker.settings import HTTP_PORT, HttpSettings

health_commands = typer.Typer()


@health_commands.command()
def health(as_json: AsJson = False) -> None:
    """Ask the worker on this machine whether it can work. Needs EXPORT_RUNS_HTTP_PORT, the same as the worker's.

    Exit code 0 if it can, 1 if it cannot, and why; 3 if nobody answers on the port.
    """
    settings = read_settings(HttpSettings)
    if settings.http_port is None:
        fail(Exit.USAGE, f"{HTTP_PORT}: is not set")
    answer = ask_health(settings.http_host, settings.http_port)
    if answer is None:
        fail(Exit.UNREACHABLE, f"no worker answers on {settings.http_host} port {settings.http_port}")
    if as_json:
        print_json(answer)
    else:
        out.print_line("the worker can work" if answer["ok"] else "the worker cannot work")
        for part, obstacles in answer["obstacles"].items():
            for obstacle in obstacles:
                out.print_line(f"{part}: {obstacle}")
    raise typer.Exit(Exit.DONE if answer["ok"] else Exit.REFUSED)
