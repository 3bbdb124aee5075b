"""The conformance kit passes a sound exporter, and finds each mistake of another one, by its rule only."""

import pytest

from cli.conformance.scenarios import EXPORTER_SCENARIOS, Role
from tests.acceptance.conformance.conftest import Play, rules_broken

MISTAKES = [
    ("no-confirms", "plain", "confirms"),
    ("transient", "plain", "persistent"),
    ("not-mandatory", "plain", "mandatory"),
    ("same-message-id", "plain", "message-id"),
    ("no-type", "plain", "type"),
    ("invalid-event", "plain", "valid-event"),
    ("same-event-id", "plain", "event-id"),
    ("another-event-id", "lost-confirm", "event-id"),
    ("gives-up", "lost-confirm", "tell-again"),
    ("exits-early", "slow-confirms", "await-confirm"),
    ("no-expiration", "plain", "expiration"),
    ("no-reply-to", "plain", "reply-to"),
    ("no-correlation-id", "plain", "correlation-id"),
    ("invalid-request", "plain", "valid-request"),
    ("breaks-a-channel", "plain", "amqp"),
    ("never-asks", "plain", "ask"),
    ("silence-is-a-grant", "no-answer", "no-answer"),
    ("error-is-a-grant", "unavailable", "error-is-no-grant"),
    ("error-is-a-grant", "refused", "error-is-no-grant"),
    ("conflicts-are-granted", "conflict", "only-granted"),
    ("pays-twice", "plain", "pay-once"),
    ("forgets-a-payment", "plain", "report-paid"),
    ("reports-unpaid", "conflict", "report-only-paid"),
    ("no-start", "plain", "tell-start"),
    ("no-end", "plain", "tell-end"),
    ("no-release", "no-answer", "release"),
    ("no-release", "unavailable", "release"),
    ("repeats-errors", "refused", "final-error"),
    ("no-renewal", "renewal", "renew"),
    ("renews-available", "renewal", "renewal-form"),
    ("pays-on", "lost-lease", "stop-at-refusal"),
    ("pays-on", "other-token", "stop-at-refusal"),
    ("pays-on", "silent-renewal", "stop-at-two-thirds"),
    ("forgets-what-it-paid", "crash", "after-crash"),
]


async def test_the_python_client_is_a_sound_exporter(play: Play) -> None:
    played = await play(Role.EXPORTER, "client_exporter")
    assert [(each.scenario, each.findings) for each in played] == [(each, []) for each in EXPORTER_SCENARIOS]


@pytest.mark.parametrize(("mistake", "scenario", "rule"), MISTAKES)
async def test_a_mistake_is_found_by_its_rule_only(play: Play, mistake: str, scenario: str, rule: str) -> None:
    assert rules_broken(await play(Role.EXPORTER, "exporter", mistake, only=scenario)) == [rule]


def test_each_rule_is_broken_by_a_mistake() -> None:
    rules = {rule.name for scenario in EXPORTER_SCENARIOS for rule in scenario.rules}
    assert rules == {"end", *(rule for _, _, rule in MISTAKES)}
