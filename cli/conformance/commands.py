"""The command `export-runs conformance`: does a program keep the contract?"""

import asyncio
from typing import Annotated, Any, Final

import typer

from cli.conformance.playing import Played, play_all
from cli.conformance.rules import Finding
from cli.conformance.scenarios import SCENARIOS, Role, Scenario
from cli.conformance.stage import StageRefused
from cli.console import AsJson, Exit, fail, read_settings
from cli.errors import errors_explained
from cli.terminal import out, print_json
from schema.fields import counted
from worker.settings import BrokerSettings

TIMEOUT_S: Final = 60.0

conformance_commands = typer.Typer()


@conformance_commands.command()
def conformance(
    role: Annotated[Role, typer.Argument(help="What the program is.")],
    command: Annotated[list[str] | None, typer.Argument(help="The program and its arguments, after --.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Play this scenario; may be given more than once.")] = None,
    list_scenarios: Annotated[bool, typer.Option("--list", help="Print the scenarios, and start nothing.")] = False,
    timeout_s: Annotated[float, typer.Option(min=1, help="How long one start of the program may take.")] = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Play the service to an exporter or a guard, and say which rules of the contract it breaks.

    Needs EXPORT_RUNS_AMQP_URL, with a virtual host where no worker ever was. The program is started once for each
    scenario, connects to the URL in its own EXPORT_RUNS_AMQP_URL, does what docs/CONFORMANCE.md says, and ends. Exit
    code 0: it broke no rule. 1: it did.
    """
    scenarios = _chosen(role, only)
    if list_scenarios:
        for scenario in scenarios:
            out.print_line(f"{scenario.name}: {scenario.summary}")
        return
    if not command:
        raise typer.BadParameter("name the program: export-runs conformance exporter -- COMMAND", param_hint="COMMAND")
    settings = read_settings(BrokerSettings)
    with errors_explained():
        try:
            played = asyncio.run(_play(settings, scenarios, command, timeout_s, is_quiet=as_json))
        except StageRefused as refused:
            fail(Exit.USAGE, str(refused))
        except FileNotFoundError as error:
            fail(Exit.USAGE, f"{command[0]}: cannot be started: {error.strerror}")
    failed = [each for each in played if each.findings]
    if as_json:
        print_json({"role": role, "passed": not failed, "scenarios": [_as_json(each) for each in played]})
    else:
        out.print_line(f"{len(played) - len(failed)} of {counted(len(played), 'scenario')} passed")
    if failed:
        raise typer.Exit(Exit.REFUSED)


def _chosen(role: Role, names: list[str] | None) -> list[Scenario]:
    scenarios = {scenario.name: scenario for scenario in SCENARIOS[role]}
    unknown = [name for name in names or () if name not in scenarios]
    if unknown:
        raise typer.BadParameter(f"must be one of {', '.join(scenarios)}", param_hint="--only")
    return [scenario for name, scenario in scenarios.items() if not names or name in names]


async def _play(
    settings: BrokerSettings, scenarios: list[Scenario], command: list[str], timeout_s: float, *, is_quiet: bool
) -> list[Played]:
    played: list[Played] = []
    async for each in play_all(settings, scenarios, command, timeout_s):
        played.append(each)
        if not is_quiet:
            _print(each)
    return played


def _print(played: Played) -> None:
    if not played.findings:
        out.print_line(f"{played.scenario.name}: passed")
        return
    out.print_line(f"{played.scenario.name}: failed. {played.scenario.summary}")
    for finding in played.findings:
        often = f", {finding.times:,} times" if finding.times > 1 else ""
        message = f", message {finding.fault.message_id}" if finding.fault.message_id else ""
        out.print_line(f"  {finding.rule.name}{often}: {finding.fault.sentence}")
        out.print_line(f"    {_place(finding)}{message}")
    for line in played.errors:
        out.print_line(f"  the program: {line}")


def _as_json(played: Played) -> dict[str, Any]:
    findings = [
        {
            "rule": finding.rule.name,
            "sentence": finding.fault.sentence,
            "messageId": finding.fault.message_id,
            "times": finding.times,
            "page": _place(finding),
        }
        for finding in played.findings
    ]
    return {"name": played.scenario.name, "passed": not findings, "findings": findings, "errors": played.errors}


def _place(finding: Finding) -> str:
    return f"{finding.rule.page}#{finding.rule.section}"
