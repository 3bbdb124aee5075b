"""Log that a dead letter was discarded: the last trace of it, its body included."""

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID, uuid5

import sql
from schema.decoding import InvalidBody, decode
from schema.fields import Name, WireModel

from .connection import Connection

DEAD_LETTER_DISCARDED: Final = "dead-letter-discarded"
"""An event type of the log only: nobody publishes it."""

DISCARDS: Final = UUID("2b5cf3a6-6d0c-4bd6-9a1c-0d6e0a2f7c51")
"""The namespace that the ids of such log entries are made in."""

Model = TypeVar("Model", bound=WireModel)


@dataclass(frozen=True, slots=True)
class Discard:
    """A dead letter, and why somebody throws it away."""

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


async def log_discard(connection: Connection, discard: Discard) -> None:
    """Append a discard to the log; returns after the commit. The same dead letter is logged once."""
    of_run, of_organisation = _decoded(_OfRun, discard.body), _decoded(_OfOrganisation, discard.body)
    await connection.execute(
        sql.query("insert_events"),
        [_event_id(discard)],
        DEAD_LETTER_DISCARDED,
        "command",
        [of_run and of_run.run_id],
        [of_organisation and of_organisation.org_id],
        [datetime.now(UTC)],
        [_payload(discard)],
    )


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
            "bodyEncoding": encoding,
            "body": body,
        }
    )


def _decoded(model: type[Model], body: bytes) -> Model | None:
    try:
        return decode(model, body)
    except InvalidBody:
        return None
