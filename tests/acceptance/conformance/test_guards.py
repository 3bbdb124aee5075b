"""The conformance kit passes a sound guard, and finds each mistake of another one, by its rule only."""

import pytest

from cli.conformance.scenarios import GUARD_SCENARIOS, Role
from tests.acceptance.conformance.conftest import Play, rules_broken

MISTAKES = [
    ("no-expiration", "plain", "expiration"),
    ("no-reply-to", "plain", "reply-to"),
    ("no-correlation-id", "plain", "correlation-id"),
    ("invalid-request", "plain", "valid-request"),
    ("breaks-a-channel", "plain", "amqp"),
    ("never-asks", "plain", "ask"),
    ("reserved-is-free", "plain", "only-unexported"),
    ("nothing-is-free", "plain", "free-passes"),
    ("silence-is-free", "no-answer", "no-answer"),
    ("silence-is-free", "lost-connection", "no-answer"),
    ("error-is-free", "unavailable", "error-is-not-free"),
    ("error-is-free", "refused", "error-is-not-free"),
    ("repeats-errors", "refused", "final-error"),
    ("any-reply", "wrong-answer", "own-answer"),
]


async def test_the_python_client_is_a_sound_guard(play: Play) -> None:
    played = await play(Role.GUARD, "client_guard")
    assert [(each.scenario, each.findings) for each in played] == [(each, []) for each in GUARD_SCENARIOS]


@pytest.mark.parametrize(("mistake", "scenario", "rule"), MISTAKES)
async def test_a_mistake_is_found_by_its_rule_only(play: Play, mistake: str, scenario: str, rule: str) -> None:
    assert rules_broken(await play(Role.GUARD, "guard", mistake, only=scenario)) == [rule]


async def test_a_program_that_does_not_end_is_ended(play: Play) -> None:
    played = await play(Role.GUARD, "guard", "never-ends", only="plain", timeout_s=8)
    assert rules_broken(played) == ["end"]


def test_each_rule_is_broken_by_a_mistake() -> None:
    rules = {rule.name for scenario in GUARD_SCENARIOS for rule in scenario.rules}
    assert rules == {"end", *(rule for _, _, rule in MISTAKES)}
