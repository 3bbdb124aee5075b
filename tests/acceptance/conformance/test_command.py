"""The command of the conformance kit: exit codes, its output, and where it refuses to run."""

import json
import re
import sys

import pytest

from cli.conformance.rules import CONTRACT, KIT
from cli.conformance.scenarios import SCENARIOS, Role
from tests.acceptance.conformance.conftest import path_of
from tests.commands import export_runs
from tests.pages import anchors, read, rows
from tests.wire import Wire
from worker.settings import WorkerSettings

GUARD = (sys.executable, "-m", "tests.acceptance.conformance.programs.guard")

PLAYED = {Role.EXPORTER: "What is played to an exporter", Role.GUARD: "What is played to a guard"}


@pytest.mark.usefixtures("kit_url")
async def test_what_a_sound_program_hears(settings: WorkerSettings) -> None:
    command = (sys.executable, str(path_of("client_guard")))
    done = await export_runs("conformance", "guard", "--only", "plain", "--", *command, settings=settings)
    assert (done.code, done.out, done.err) == (0, "plain: passed\n1 of 1 scenario passed\n", "")


@pytest.mark.usefixtures("kit_url")
async def test_what_the_maker_of_a_mistake_hears(settings: WorkerSettings) -> None:
    options = ("--only", "plain", "--", *GUARD, "reserved-is-free")
    done = await export_runs("conformance", "guard", *options, settings=settings)
    first, rule, page, *_, last = done.out.splitlines()
    assert (done.code, first, last) == (
        1,
        "plain: failed. One claim is exported, one is reserved, and one is free.",
        "0 of 1 scenario passed",
    )
    assert rule == "  only-unexported: claim hotel-2 was let through although it is reserved"
    assert re.fullmatch(r"    docs/CONTRACT\.md#check-claims, message [0-9a-f-]{36}", page)


@pytest.mark.usefixtures("kit_url")
async def test_the_result_as_json(settings: WorkerSettings) -> None:
    options = ("--json", "--only", "plain", "--", *GUARD, "no-expiration")
    done = await export_runs("conformance", "guard", *options, settings=settings)
    result = json.loads(done.out)
    [scenario] = result["scenarios"]
    [finding] = scenario["findings"]
    assert (done.code, result["role"], result["passed"], scenario["name"]) == (1, "guard", False, "plain")
    assert (finding["rule"], finding["times"], finding["page"]) == ("expiration", 1, "docs/CONTRACT.md#how-to-ask")


async def test_it_does_not_run_where_a_worker_was(settings: WorkerSettings, worker: None, wire: Wire) -> None:
    await wire.ready()
    done = await export_runs("conformance", "guard", "--", *GUARD, "none", settings=settings)
    assert done.code == 2
    assert done.err.startswith("a worker was at work in this virtual host")
    await wire.ready()


async def test_wrong_usage(settings: WorkerSettings) -> None:
    none = await export_runs("conformance", "guard", settings=settings)
    unknown = await export_runs("conformance", "guard", "--only", "nothing", "--", "true", settings=settings)
    assert (none.code, unknown.code) == (2, 2)
    assert "must be one of plain, no-answer" in unknown.err


@pytest.mark.usefixtures("kit_url")
async def test_a_program_that_cannot_be_started(settings: WorkerSettings) -> None:
    done = await export_runs("conformance", "guard", "--", "/no/such/program", settings=settings)
    assert (done.code, done.err) == (2, "/no/such/program: cannot be started: No such file or directory\n")


async def test_the_page_has_the_scenarios_and_the_rules(settings: WorkerSettings) -> None:
    page = read(KIT)
    for role, heading in PLAYED.items():
        assert [row[0].strip("`") for row in rows(page, heading)] == [each.name for each in SCENARIOS[role]]
        listed = await export_runs("conformance", role, "--list", settings=settings)
        assert [line.split(":")[0] for line in listed.out.splitlines()] == [each.name for each in SCENARIOS[role]]
    rules = {rule for scenarios in SCENARIOS.values() for each in scenarios for rule in each.rules}
    assert {name for row in rows(page, "What is judged") for name in re.findall(r"`([a-z-]+)`", row[0])} == {
        rule.name for rule in rules
    }
    places = {CONTRACT: anchors(read(CONTRACT)), KIT: anchors(page)}
    assert [rule.name for rule in rules if rule.section not in places[rule.page]] == []
