"""Plays scenarios to a program, and judges what was seen."""

import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.conformance.exporter_rules import PAID
from cli.conformance.program import Program, variables
from cli.conformance.proxy import Interference, open_proxy
from cli.conformance.rules import Finding
from cli.conformance.scenarios import Scenario
from cli.conformance.service import Service
from cli.conformance.stage import Stage, open_stage
from cli.conformance.timeline import Timeline
from worker.settings import BrokerSettings


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario, what was found in it, and the last lines of the program's standard error."""

    scenario: Scenario
    findings: list[Finding]
    errors: list[str]


async def play_all(
    settings: BrokerSettings, scenarios: Sequence[Scenario], command: Sequence[str], timeout_s: float
) -> AsyncIterator[Played]:
    """Play scenarios one after the other. One start of the program may take `timeout_s`.

    Raises StageRefused, Unreachable, Misconfiguration, and OSError if the program cannot be started.
    """
    async with open_stage(settings) as stage:
        for scenario in scenarios:
            yield await _play(stage, settings.amqp_urls[0], scenario, command, timeout_s)


async def _play(stage: Stage, url: str, scenario: Scenario, command: Sequence[str], timeout_s: float) -> Played:
    timeline = Timeline(scenario.task)
    interference = Interference(hold_confirms=scenario.hold_confirms, cut_end=scenario.cut_end)
    with tempfile.TemporaryDirectory(prefix="export-runs-conformance-") as folder:
        async with open_proxy(url, timeline, interference) as proxy:
            await stage.begin(Service(scenario, timeline, proxy.cut))
            program = Program(command, variables(scenario.task, proxy.url, Path(folder)), timeline)
            if scenario.kill:
                await program.run(timeout_s, kill_at=PAID)
            await program.run(timeout_s)
    return Played(scenario, list(judged(scenario, timeline)), list(program.errors))


def judged(scenario: Scenario, timeline: Timeline) -> Iterator[Finding]:
    """What broke a rule of the scenario: one finding for each rule, however often it was broken."""
    for rule in scenario.rules:
        if faults := list(rule.judge(timeline)):
            yield Finding(rule, faults[0], len(faults))
