"""What is played: the scenarios of an exporter and of a guard, as data."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cli.conformance.exporter_rules import (
    AFTER_CRASH,
    FINAL_RESERVATION,
    PAYMENT_RULES,
    RELEASE,
    RENEW,
    REPORT_RULES,
    RUN_RULES,
    STOP_AT_REFUSAL,
    STOP_AT_TWO_THIRDS,
)
from cli.conformance.guard_rules import CORRELATION, FINAL_CHECK, FREE_PASSES, FREE_RULES
from cli.conformance.message_rules import EVENT_RULES, REQUEST_RULES, TELL_AGAIN, asks
from cli.conformance.rules import Rule
from cli.conformance.timeline import Task
from schema.operations import CHECK_CLAIMS, RESERVE_CLAIMS


class Role(StrEnum):
    """What the program under test is."""

    EXPORTER = "exporter"
    GUARD = "guard"


class Treatment(StrEnum):
    """What the service does with one request."""

    ANSWER = "answer"
    SILENCE = "silence"
    """No answer ever comes."""

    UNAVAILABLE = "unavailable"
    """The error `UNAVAILABLE`, which is retryable."""

    CONFLICT = "conflict"
    """The error `CONFLICT`, which is not."""

    TAKEN = "taken"
    """Another run has the claims now."""

    OTHER_TOKEN = "other-token"
    """The claims are granted, with another fencing token: another run may have had them in between."""

    CUT = "cut"
    """The connection is lost while the request is on its way."""

    DECOY = "decoy"
    """First comes an answer to another request, which says that all claims are free."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One start of the program, or two, and what the service does meanwhile."""

    name: str
    summary: str
    """What happens, in one sentence."""

    rules: tuple[Rule, ...]
    task: Task
    exported: tuple[str, ...] = ()
    """Claims that another run has exported."""

    reserved: tuple[str, ...] = ()
    """Claims that another run has reserved."""

    asks: tuple[Treatment, ...] = (Treatment.ANSWER,)
    """What becomes of the first request for claims, the second, and so on; the last stands for all that follow."""

    renewals: Treatment = Treatment.ANSWER
    hold_confirms: bool = False
    cut_end: bool = False
    kill: bool = False
    """Kill the program when it has paid its first claim, and start it again."""


SHORT_LEASE_S: Final = 6
SLOW_S: Final = 0.5
"""All claims of a LONG task take twice as long as its lease."""

TWO: Final = Task(("taxi-1", "hotel-2"))
THREE: Final = Task(("taxi-1", "hotel-2", "lunch-3"))
LONG: Final = Task(tuple(f"bus-{number}" for number in range(1, 25)), SHORT_LEASE_S, SLOW_S)

_EXPORT_ATTEMPT: Final = (*EVENT_RULES, *REQUEST_RULES, asks(RESERVE_CLAIMS.name), *PAYMENT_RULES, *REPORT_RULES)
_EXPORT: Final = (*_EXPORT_ATTEMPT, *RUN_RULES)
_CHECK: Final = (*REQUEST_RULES, asks(CHECK_CLAIMS.name))

EXPORTER_SCENARIOS: Final = (
    Scenario("plain", "Both claims are granted.", _EXPORT, TWO),
    Scenario(
        "conflict",
        "Another run has exported one of the claims, and another run has reserved one.",
        _EXPORT,
        THREE,
        exported=("hotel-2",),
        reserved=("lunch-3",),
    ),
    Scenario("slow-confirms", "RabbitMQ confirms each event late.", _EXPORT, TWO, hold_confirms=True),
    Scenario(
        "lost-confirm",
        "RabbitMQ has the run-finished, and the connection is lost before the program hears of it.",
        (*_EXPORT, TELL_AGAIN),
        TWO,
        cut_end=True,
    ),
    Scenario(
        "no-answer",
        "Nobody answers the reservation.",
        (*_EXPORT_ATTEMPT, RELEASE),
        Task(TWO.claim_ids, lease_s=SHORT_LEASE_S),
        asks=(Treatment.SILENCE,),
    ),
    Scenario(
        "unavailable",
        "The first reservation is answered UNAVAILABLE, which is retryable; the next one is granted.",
        (*_EXPORT_ATTEMPT, RELEASE),
        TWO,
        asks=(Treatment.UNAVAILABLE, Treatment.ANSWER),
    ),
    Scenario(
        "refused",
        "The reservation is answered CONFLICT, which is not retryable.",
        (*_EXPORT_ATTEMPT, FINAL_RESERVATION),
        TWO,
        asks=(Treatment.CONFLICT,),
    ),
    Scenario(
        "renewal",
        "The payments take twice as long as the lease.",
        (*_EXPORT, RENEW),
        LONG,
    ),
    Scenario(
        "lost-lease",
        "The renewal says that another run has the claims now.",
        (*_EXPORT, STOP_AT_REFUSAL),
        LONG,
        renewals=Treatment.TAKEN,
    ),
    Scenario(
        "other-token",
        "The renewal is granted with another fencing token.",
        (*_EXPORT, STOP_AT_REFUSAL),
        LONG,
        renewals=Treatment.OTHER_TOKEN,
    ),
    Scenario(
        "silent-renewal",
        "Nobody answers the renewals.",
        (*_EXPORT, STOP_AT_TWO_THIRDS),
        LONG,
        renewals=Treatment.SILENCE,
    ),
    Scenario(
        "crash",
        "The program is killed when it has paid one claim, and started again.",
        (*_EXPORT, AFTER_CRASH),
        Task(THREE.claim_ids, pay_s=SLOW_S),
        kill=True,
    ),
)

GUARD_SCENARIOS: Final = (
    Scenario(
        "plain",
        "One claim is exported, one is reserved, and one is free.",
        (*_CHECK, *FREE_RULES, FREE_PASSES),
        THREE,
        exported=("taxi-1",),
        reserved=("hotel-2",),
    ),
    Scenario("no-answer", "Nobody answers.", (*_CHECK, *FREE_RULES), TWO, asks=(Treatment.SILENCE,)),
    Scenario(
        "unavailable",
        "The first check is answered UNAVAILABLE; the next one would hear that the claims are exported.",
        (*_CHECK, *FREE_RULES),
        TWO,
        exported=TWO.claim_ids,
        asks=(Treatment.UNAVAILABLE, Treatment.ANSWER),
    ),
    Scenario(
        "refused",
        "The check is answered CONFLICT, which is not retryable.",
        (*_CHECK, *FREE_RULES, FINAL_CHECK),
        TWO,
        asks=(Treatment.CONFLICT,),
    ),
    Scenario(
        "lost-connection",
        "The connection is lost before the answer; the next check would hear that the claims are exported.",
        (*_CHECK, *FREE_RULES),
        TWO,
        exported=TWO.claim_ids,
        asks=(Treatment.CUT, Treatment.ANSWER),
    ),
    Scenario(
        "wrong-answer",
        "An answer to another request comes first: its correlation_id is another one.",
        (*_CHECK, CORRELATION),
        TWO,
        exported=TWO.claim_ids,
        asks=(Treatment.DECOY,),
    ),
)

SCENARIOS: Final = {Role.EXPORTER: EXPORTER_SCENARIOS, Role.GUARD: GUARD_SCENARIOS}
