"""Rows of one run, as the two events of the contract that say the same."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid5

from cli.imports.values import RowFacts
from schema.claim_ids import canonical_claim_id
from schema.decoding import InvalidBody, decode
from schema.events import RUN_CREATED, RUN_FINISHED, SCHEMA_VERSION, RunCreated, RunFinished, RunStatus
from schema.limits import EVENT_CLAIMS_MAX

IMPORTS: Final = UUID("1f0c7c86-6d1b-4f0e-9a54-7d1e2b8c9f30")
"""The name space of the ids that are made from the source's name and the key of a run."""

RUN_ROWS_MAX: Final = EVENT_CLAIMS_MAX
"""More rows are no run: the columns of `run_key` are likely to be the wrong ones."""

SKIPPED: Final = "skipped in the old records"

_CREATED_FACTS: Final = ("triggeredBy", "format", "targetSystem", "periodStart", "periodEnd", "trigger", "scope")
_DETAILS: Final = ("voucherId", "voucherUrl", "amount", "currency")


@dataclass(frozen=True, slots=True)
class ExportedClaim:
    """A claim that a run exported, by its canonical id, and what it is worth where that is known."""

    claim_id: str
    amount: str | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class ImportedRun:
    """One run of the old records, and its events."""

    org_id: str
    key: Sequence[str]
    run_id: UUID
    created: RunCreated
    finished: RunFinished
    exported: list[ExportedClaim] = field(default_factory=list)
    """Each claim as often as the run names it."""


class RefusedRun(Exception):
    """A run whose rows cannot be one run; the text says why."""


def build_run(
    source: str, org_id: str, key: Sequence[str], rows: Sequence[RowFacts], *, with_alerts: bool = False
) -> ImportedRun:
    """The run of these rows, which have no problems. Raises RefusedRun.

    Its ids follow from the source's name, the organisation and the key: the same rows always give the same events.
    """
    facts = _common_facts([row.run for row in rows])
    claims = [claim for row in rows for claim in row.claims]
    status = facts.get("status")
    exported = [claim for claim in claims if claim.get("outcome", "exported") == "exported"]
    if status is None:
        status = RunStatus.COMPLETED if len(exported) == len(claims) else RunStatus.PARTIAL
    run_id = _id("run", source, org_id, key)

    def event(kind: str, occurred_at: str) -> dict[str, Any]:
        return {
            "eventId": str(_id(kind, source, org_id, key)),
            "schemaVersion": SCHEMA_VERSION,
            "occurredAt": occurred_at,
            "runId": str(run_id),
            "orgId": org_id,
            "imported": True,
        }

    created = event(RUN_CREATED, facts.get("createdAt") or facts["finishedAt"])
    created |= {name: facts[name] for name in _CREATED_FACTS if name in facts}
    finished = event(RUN_FINISHED, facts.get("finishedAt") or facts["createdAt"])
    finished |= {"status": status, "claimIds": [claim["claimId"] for claim in exported]}
    lists = {"skippedClaims": _skipped(claims), "claimDetails": _details(claims), "totals": _totals(exported)}
    finished |= {name: value for name, value in lists.items() if value}
    if "externalAckId" in facts:
        finished["externalAckId"] = facts["externalAckId"]
    if with_alerts:
        finished["alertIfImported"] = True
    return ImportedRun(
        org_id=org_id,
        key=key,
        run_id=run_id,
        created=_decoded(RunCreated, created),
        finished=_decoded(RunFinished, finished),
        exported=[
            ExportedClaim(canonical_claim_id(claim["claimId"]), claim.get("amount"), claim.get("currency"))
            for claim in exported
            if status != RunStatus.FAILED
        ],
    )


def _decoded(model: Any, event: dict[str, Any]) -> Any:
    try:
        return decode(model, json.dumps(event, ensure_ascii=False).encode())
    except (InvalidBody, UnicodeEncodeError) as error:
        raise RefusedRun(f"the run is not valid: {error}") from None


def _id(kind: str, source: str, org_id: str, key: Sequence[str]) -> UUID:
    return uuid5(IMPORTS, json.dumps([kind, source, org_id, *key]))


def _common_facts(runs: Iterable[dict[str, str]]) -> dict[str, str]:
    """What the rows of a run say of it: the earliest start, the latest end, and what all of them agree on."""
    facts: dict[str, str] = {}
    for run in runs:
        for name, value in run.items():
            known = facts.setdefault(name, value)
            if known == value:
                continue
            match name:
                case "createdAt":
                    facts[name] = min(known, value)
                case "finishedAt":
                    facts[name] = max(known, value)
                case _:
                    raise RefusedRun(f"the rows of the run differ in {name}")
    return facts


def _skipped(claims: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    skipped = (claim for claim in claims if claim.get("outcome") == "skipped")
    return [
        {
            "claimId": claim["claimId"],
            "reason": claim.get("reason", SKIPPED),
            **({"code": claim["code"]} if "code" in claim else {}),
        }
        for claim in skipped
    ]


def _details(claims: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    details = [
        {"claimId": claim["claimId"], **{name: claim[name] for name in _DETAILS if name in claim}} for claim in claims
    ]
    return [each for each in details if len(each) > 1]


def _totals(exported: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Control totals, where every claim has an amount and a currency, and none is there twice."""
    claim_ids = {canonical_claim_id(claim["claimId"]) for claim in exported}
    if len(claim_ids) < len(exported) or not all("amount" in claim and "currency" in claim for claim in exported):
        return []
    counts: dict[str, tuple[int, Decimal]] = {}
    for claim in exported:
        count, amount = counts.get(claim["currency"], (0, Decimal(0)))
        counts[claim["currency"]] = (count + 1, amount + Decimal(claim["amount"]))
    return [
        {"currency": currency, "claimCount": count, "amount": f"{amount:f}"}
        for currency, (count, amount) in sorted(counts.items())
    ]
