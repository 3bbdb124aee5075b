"""What an event says of a run, as a few bytes: events of one kind with different digests contradict each other.

The digests of runs are stored, so an event that was told before must give the same digest for ever. Fields that came
after the first version of an event therefore count only where they are given.
"""

import hashlib
import json
from collections.abc import Sequence, Set
from typing import Final

from schema.events import CreatedFacts, FinishedFacts
from schema.fields import WireModel

from .claim_outcomes import claim_outcomes

DIGEST_BYTES: Final = 16

FIRST_CREATED_FIELDS: Final = frozenset(
    ("triggered_by", "format", "target_system", "period_start", "period_end", "retry_of_run_id", "override")
)
FIRST_FINISHED_FIELDS: Final = frozenset(
    ("status", "claim_ids", "skipped_claims", "error", "artifact", "external_ack_id")
)
"""The fields of the first version, which count whether they are given or not."""


def created_digest(facts: CreatedFacts, model: type[CreatedFacts] = CreatedFacts) -> bytes:
    """What run-created says of a run, by the fields of `model`, as DIGEST_BYTES bytes."""
    text = facts.model_dump_json(include=set(FIRST_CREATED_FIELDS))
    return _digest(text + _later_fields(facts, model, FIRST_CREATED_FIELDS))


def finished_digest(facts: FinishedFacts, model: type[FinishedFacts] = FinishedFacts) -> bytes:
    """What run-finished says of a run, by the fields of `model`, as DIGEST_BYTES bytes.

    The order and the repetition of claims say nothing.
    """
    claims: Sequence[object] = sorted(set(facts.claim_ids))
    if facts.skipped_claims:
        claims = sorted([claim_id, *what] for claim_id, what in claim_outcomes(facts).items())
    others = (
        facts.error and (facts.error.code, facts.error.detail),
        facts.artifact and (facts.artifact.key, facts.artifact.sha256, facts.artifact.size_bytes),
        facts.external_ack_id,
    )
    text = json.dumps([facts.status, others, claims])
    if codes := {(skipped.claim_id, skipped.code) for skipped in facts.skipped_claims if skipped.code is not None}:
        text += json.dumps(sorted(codes))
    return _digest(text + _later_fields(facts, model, FIRST_FINISHED_FIELDS))


def _later_fields(facts: WireModel, model: type[WireModel], first: Set[str]) -> str:
    """What is given in fields that came later, as JSON; nothing where nothing is given."""
    given = {name for name in model.model_fields.keys() - first if getattr(facts, name) not in (None, [], {})}
    if not given:  # nearly always
        return ""
    # Not mode="json": in it a claim id has the spelling that was sent, and that says nothing.
    told = facts.model_dump(include=given, exclude_none=True)
    told = {name: _in_any_order(value) for name, value in told.items()}
    return json.dumps(told, sort_keys=True, default=str) if told else ""


def _in_any_order(value: object) -> object:
    """A list without its order and its repetitions, which say nothing."""
    if not isinstance(value, list):
        return value
    return sorted({json.dumps(each, sort_keys=True, default=str) for each in value})


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()
