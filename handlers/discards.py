"""Log the dead letters that an operator discards, with their bodies: nothing else is left of them."""

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID, uuid5

from pydantic import Field

from schema.decoding import InvalidBody, decode
from schema.fields import EventClaims, EventSkippedClaims, Name, WireModel
from sql.connection import Connection, transaction

from .event_log import EventType, append
from .query_arguments import LogEntry

DISCARDS: Final = UUID("2b5cf3a6-6d0c-4bd6-9a1c-0d6e0a2f7c51")
"""The namespace of the ids of these log entries."""

Model = TypeVar("Model", bound=WireModel)


@dataclass(frozen=True, slots=True)
class Discard:
    """A dead letter, and why and by whom it is discarded."""

    queue: str
    message_id: str | None
    error_code: str
    error_detail: str
    failed_at: datetime | None
    reason: str
    discarded_by: str
    body: bytes


class _OfRun(WireModel):
    run_id: UUID


class _OfOrganisation(WireModel):
    org_id: Name


class _OfClaims(WireModel):
    claim_ids: EventClaims = Field(default_factory=list)
    skipped_claims: EventSkippedClaims = Field(default_factory=list)


async def log_discard(connection: Connection, discard: Discard) -> None:
    """Append a discard to the log; returns after the commit. The same dead letter is logged only once."""
    run, organisation = _decoded(_OfRun, discard.body), _decoded(_OfOrganisation, discard.body)
    entry = LogEntry(
        _event_id(discard),
        "command",
        run_id=run.run_id if run else None,
        org_id=organisation.org_id if organisation else None,
        occurred_at=datetime.now(UTC),
        payload=_payload(discard),
    )
    async with transaction(connection):
        await append(connection, EventType.DEAD_LETTER_DISCARDED, [entry])


def _event_id(discard: Discard) -> UUID:
    digest = hashlib.sha256(discard.body).hexdigest()
    return uuid5(DISCARDS, json.dumps([discard.queue, discard.message_id, digest]))


def _payload(discard: Discard) -> str:
    try:
        body, encoding = discard.body.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(discard.body).decode(), "base64"
    return json.dumps(
        {
            "queue": discard.queue,
            "messageId": discard.message_id,
            "errorCode": discard.error_code,
            "errorDetail": discard.error_detail,
            "failedAt": discard.failed_at and discard.failed_at.isoformat(),
            "reason": discard.reason,
            "discardedBy": discard.discarded_by,
            "claimIds": _claim_ids(discard.body),
            "bodyEncoding": encoding,
            "body": body,
        }
    )


def _claim_ids(body: bytes) -> list[str]:
    """The claims that a dead letter names, each once; none if one of them is not valid."""
    claims = _decoded(_OfClaims, body)
    if claims is None:
        return []
    return sorted({*claims.claim_ids, *(skipped.claim_id for skipped in claims.skipped_claims)})


def _decoded(model: type[Model], body: bytes) -> Model | None:
    try:
        return decode(model, body)
    except InvalidBody:
        return None
