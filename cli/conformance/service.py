"""Plays the service: answers requests and takes events, as a scenario wants it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, assert_never
from uuid import UUID, uuid4

from aio_pika.abc import AbstractIncomingMessage

from cli.conformance.message_rules import REPLY_QUEUE_PREFIXES
from cli.conformance.scenarios import Scenario, Treatment
from cli.conformance.timeline import REQUESTS, Answer, Timeline
from schema.decoding import InvalidBody, decode
from schema.errors import ErrorCode
from schema.events import EVENTS, RunFinished, RunStatus
from schema.fields import WireModel
from schema.operations import CHECK_CLAIMS, RESERVE_CLAIMS
from schema.replies import encode_error_reply, encode_ok_reply
from schema.requests import CheckClaims, ReleaseClaims, ReservationMode, ReserveClaims
from schema.results import (
    CheckedClaims,
    ClaimConflict,
    ConflictReason,
    ExportedBy,
    ExportedClaim,
    ReleasedClaims,
    ReservedClaim,
    ReservedClaims,
)
from worker.requests.reply_addresses import UnusableReplyTo, read_reply_address

FIRST_TOKEN: Final = 7
DECOY_AHEAD_S: Final = 0.5
"""How long before the answer an answer to another request comes."""

ASKED: Final = {RESERVE_CLAIMS.name, CHECK_CLAIMS.name}
"""The operations that a scenario is about."""

Reply = Callable[[AbstractIncomingMessage, bytes, str | None], Awaitable[None]]
"""Sends a body as the reply to a request, with this correlation id."""


class Service:
    """The service in one scenario. It knows no claims but those of the scenario, and keeps nothing."""

    def __init__(self, scenario: Scenario, timeline: Timeline, cut: Callable[[], None]) -> None:
        self._scenario = scenario
        self._timeline = timeline
        self._cut = cut
        self._asks = 0
        self._token = FIRST_TOKEN
        self._others_run = uuid4()
        self._exported = dict.fromkeys(scenario.exported, self._others_run)
        self._held = dict.fromkeys(scenario.reserved, self._others_run)
        self._expires_at = _now() + timedelta(hours=1)

    def take_event(self, event_type: str, body: bytes) -> None:
        """Take an event. The claims of a run that has ended are exported or free."""
        try:
            event = decode(EVENTS[event_type], body)
        except (InvalidBody, KeyError):
            return  # the proxy has seen it too, and a rule says what is wrong
        if isinstance(event, RunFinished):
            if event.status is not RunStatus.FAILED:
                self._exported |= dict.fromkeys(event.claim_ids, event.run_id)
            self._held = {claim: run for claim, run in self._held.items() if run != event.run_id}

    async def take_request(self, operation: str, message: AbstractIncomingMessage, reply: Reply) -> None:
        """Answer a request, or do with it what the scenario says."""
        try:
            read_reply_address(message.reply_to, REPLY_QUEUE_PREFIXES)
            request = decode(REQUESTS[operation], message.body)
        except (UnusableReplyTo, KeyError):
            return  # nobody could hear an answer
        except InvalidBody as invalid:
            refusal = encode_error_reply(ErrorCode.INVALID_REQUEST, "the request is not valid", *invalid.details)
            await reply(message, refusal, message.correlation_id)
            return
        answer = Answer(_clock_s(), operation, request, message.message_id, self._is_renewal(request))
        self._timeline.answers.append(answer)
        treatment = self._treatment(answer)
        if treatment is Treatment.CUT:
            self._cut()
            return
        if treatment is Treatment.DECOY:
            assert isinstance(request, CheckClaims)
            await reply(message, encode_ok_reply(_checked([], [], request.claim_ids)), str(uuid4()))
            await asyncio.sleep(DECOY_AHEAD_S)
        body = self._body(answer, treatment)
        if body is not None:
            answer.at_s = _clock_s()
            await reply(message, body, message.correlation_id)

    def _treatment(self, answer: Answer) -> Treatment:
        if answer.operation not in ASKED:
            return Treatment.ANSWER
        if answer.is_renewal:
            return self._scenario.renewals
        self._asks += 1
        return self._scenario.asks[min(self._asks, len(self._scenario.asks)) - 1]

    def _body(self, answer: Answer, treatment: Treatment) -> bytes | None:
        """The body of the answer, which is noted; None for silence."""
        match treatment:
            case Treatment.SILENCE | Treatment.CUT:
                return None
            case Treatment.UNAVAILABLE:
                return _error(answer, ErrorCode.UNAVAILABLE, "the database is away")
            case Treatment.CONFLICT:
                return _error(answer, ErrorCode.CONFLICT, "the run has ended")
            case Treatment.TAKEN:
                assert isinstance(answer.request, ReserveClaims)
                self._held |= dict.fromkeys(answer.request.claim_ids, self._others_run)
                answer.is_lost = True
            case Treatment.OTHER_TOKEN:
                self._token += 2
                answer.is_lost = True
            case Treatment.ANSWER | Treatment.DECOY:
                pass
            case _:
                assert_never(treatment)
        answer.result = self._result(answer.request)
        if answer.result is None:
            return _error(answer, ErrorCode.INTERNAL, f"the conformance kit does not play {answer.operation}")
        return encode_ok_reply(answer.result)

    def _result(self, request: WireModel) -> WireModel | None:
        """What the service would answer; None where this one plays no such operation."""
        match request:
            case ReserveClaims():
                return self._reserve(request)
            case ReleaseClaims():
                mine = [claim for claim, run in self._held.items() if run == request.run_id]
                freed = [claim for claim in mine if request.claim_ids is None or claim in request.claim_ids]
                self._held = {claim: run for claim, run in self._held.items() if claim not in freed}
                return ReleasedClaims(released_count=len(freed))
            case CheckClaims():
                exported = [claim for claim in request.claim_ids if claim in self._exported]
                reserved = [claim for claim in request.claim_ids if claim in self._held and claim not in exported]
                free = [claim for claim in request.claim_ids if claim not in {*exported, *reserved}]
                return _checked(
                    [ExportedClaim(each, [self._exported_by(self._exported[each])]) for each in exported],
                    [ReservedClaim(each, self._held[each], self._expires_at) for each in reserved],
                    free,
                )
            case _:
                return None

    def _reserve(self, request: ReserveClaims) -> ReservedClaims:
        conflicts = [
            conflict for claim in request.claim_ids if (conflict := self._conflict(claim, request.run_id)) is not None
        ]
        refused = {conflict.claim_id for conflict in conflicts}
        granted = [claim for claim in request.claim_ids if claim not in refused]
        if conflicts and request.mode is ReservationMode.ALL_OR_NOTHING:
            granted = []
        self._held |= dict.fromkeys(granted, request.run_id)
        ends = _now() + timedelta(seconds=request.ttl_seconds)
        return ReservedClaims(
            granted=granted,
            conflicts=conflicts,
            expires_at=ends if granted else None,
            fencing_token=self._token if granted else None,
        )

    def _conflict(self, claim: str, run_id: UUID) -> ClaimConflict | None:
        if claim in self._exported:
            return ClaimConflict(claim, ConflictReason.EXPORTED, self._exported[claim], None)
        if self._held.get(claim, run_id) != run_id:
            return ClaimConflict(claim, ConflictReason.RESERVED, self._held[claim], self._expires_at)
        return None

    def _is_renewal(self, request: WireModel) -> bool:
        return isinstance(request, ReserveClaims) and all(
            self._held.get(claim) == request.run_id for claim in request.claim_ids
        )

    def _exported_by(self, run_id: UUID) -> ExportedBy:
        return ExportedBy(run_id, RunStatus.COMPLETED, _now() - timedelta(days=1))


def _checked(exported: list[ExportedClaim], reserved: list[ReservedClaim], unexported: list[str]) -> CheckedClaims:
    return CheckedClaims(exported=exported, reserved=reserved, unexported=unexported, as_of=_now(), pending_events=None)


def _error(answer: Answer, code: ErrorCode, message: str) -> bytes:
    answer.error = code
    return encode_error_reply(code, message)


def _now() -> datetime:
    return datetime.now(UTC)


def _clock_s() -> float:
    return asyncio.get_running_loop().time()
