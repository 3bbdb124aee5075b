"""Stored digests of runs stay valid when events get new fields."""

from typing import Any
from uuid import UUID

import pytest

from handlers.digests import FIRST_CREATED_FIELDS, FIRST_FINISHED_FIELDS, created_digest, finished_digest
from schema.events import CreatedFacts, FinishedFacts, RunStatus
from schema.fields import Artifact, Override, RunError, SkippedClaim


class LaterCreatedFacts(CreatedFacts):
    """The start of a run, with fields of a later version."""

    purpose: str | None = None
    tags: list[str] = []  # noqa: RUF012 -- pydantic copies it


class LaterFinishedFacts(FinishedFacts):
    """The end of a run, with fields of a later version."""

    purpose: str | None = None
    tags: list[str] = []  # noqa: RUF012
    details: list[SkippedClaim] = []  # noqa: RUF012


CREATED: dict[str, Any] = {
    "triggered_by": "alice",
    "format": "csv",
    "override": Override(reason="r", approved_by="bob"),
}
FINISHED: dict[str, Any] = {
    "status": RunStatus.COMPLETED,
    "claim_ids": ["c-2", "c-1"],
    "skipped_claims": [SkippedClaim(claim_id="c-3", reason="r")],
    "error": RunError(code="E", detail="d"),
    "artifact": Artifact(key="k", sha256="s", size_bytes=1),
}


def test_a_later_field_without_a_value_does_not_change_the_digest_of_a_start() -> None:
    old, new = created_digest(CreatedFacts(**CREATED)), LaterCreatedFacts(**CREATED)
    assert created_digest(new, LaterCreatedFacts) == old
    assert created_digest(new.model_copy(update={"tags": []}), LaterCreatedFacts) == old
    assert created_digest(new.model_copy(update={"purpose": "p"}), LaterCreatedFacts) != old
    assert created_digest(new.model_copy(update={"tags": ["t"]}), LaterCreatedFacts) != old


def test_a_later_field_without_a_value_does_not_change_the_digest_of_an_end() -> None:
    old, new = finished_digest(FinishedFacts(**FINISHED)), LaterFinishedFacts(**FINISHED)
    assert finished_digest(new, LaterFinishedFacts) == old
    assert finished_digest(new.model_copy(update={"tags": []}), LaterFinishedFacts) == old
    assert finished_digest(new.model_copy(update={"purpose": "p"}), LaterFinishedFacts) != old


def test_the_same_value_in_two_later_fields_gives_two_digests() -> None:
    facts = LaterCreatedFacts(**CREATED)
    one = created_digest(facts.model_copy(update={"purpose": "t"}), LaterCreatedFacts)
    assert one != created_digest(facts.model_copy(update={"tags": ["t"]}), LaterCreatedFacts)


@pytest.mark.parametrize("field", ["skipped_claims", "details"])
def test_the_spelling_of_a_claim_id_says_nothing(field: str) -> None:
    digests = {
        finished_digest(
            LaterFinishedFacts(
                **FINISHED | {"claim_ids": [claim_id], field: [SkippedClaim(claim_id=claim_id, reason="r")]}
            ),
            LaterFinishedFacts,
        )
        for claim_id in ("\u00e9", " e\u0301", "\ufeff\u00e9")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("first", "model"), [(FIRST_CREATED_FIELDS, CreatedFacts), (FIRST_FINISHED_FIELDS, FinishedFacts)]
)
def test_no_field_of_the_first_version_is_removed(
    first: frozenset[str], model: type[CreatedFacts] | type[FinishedFacts]
) -> None:
    assert first <= model.model_fields.keys()


def test_digests_are_those_of_the_first_version() -> None:
    """With another digest, a run that is stored already would contradict its own events."""
    run_id = UUID("b2d0c4a8-7a53-4c1e-9f0d-2f6f4ab3c001")
    created = CreatedFacts(**CREATED, target_system="t", retry_of_run_id=run_id)
    assert (created_digest(created).hex(), finished_digest(FinishedFacts(**FINISHED)).hex()) == (
        "639678468f938106f5787859082e9279",
        "8677041c74fb671ad6e13ea68990e237",
    )
    failed = FinishedFacts(status=RunStatus.FAILED, claim_ids=["b", "a"])
    assert finished_digest(failed).hex() == "5d7d3d9eb5d8e5880ef45c7984897409"
