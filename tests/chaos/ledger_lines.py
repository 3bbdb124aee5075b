"""Ledgers that a test writes line by line, and the verdict on them."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.ledger import Ledger
from tests.chaos.ledger_index import Bodies, LedgerIndex
from tests.chaos.verdict import Verdict

ORG = {"orgId": "o", "runId": "11111111-1111-4111-8111-111111111111"}
OTHER_RUN = "22222222-2222-4222-8222-222222222222"
AT = "2026-01-01T00:00:00+00:00"
Line = tuple[str, dict[str, Any]]


def finished_event(key: str = "e", **fields: Any) -> Line:
    """A run-finished that exports claim `a`."""
    event = {"eventId": OTHER_RUN, **ORG, "occurredAt": AT, "status": "completed", "claimIds": ["a"], **fields}
    return "publish", {"mid": f"m-{key}", "key": key, "type": "run-finished", "body": json.dumps(event)}


def claim_check(ident: str, *claims: str, **more: Any) -> Line:
    """A claim check."""
    request = {"orgId": "o", "claimIds": list(claims)}
    return "ask", {"id": ident, "op": "check-claims", "request": request, **more}


def check_reply(ident: str, exported: dict[str, list[str]], *unexported: str) -> Line:
    """The reply to a claim check."""
    lists = {"exported": [*exported.items()], "reserved": [], "unexported": list(unexported)}
    return "reply", {"id": ident, "reply": {"ok": True, **lists}}


def reservation(ident: str, run: str, ttl_s: float, token: int, *, take_expired: bool = False) -> list[Line]:
    """A reservation of claim `a` that is granted. With a `ttl_s` of 0 it has expired at once."""
    request = {"orgId": "o", "runId": run, "claimIds": ["a"], "mode": "all-or-nothing", "ttlSeconds": ttl_s}
    result = {"granted": ["a"], "conflicts": [], "expiresAt": ttl_s, "fencingToken": token}
    return [
        ("ask", {"id": ident, "op": "reserve-claims", "request": {**request, "takeExpired": take_expired}}),
        ("reply", {"id": ident, "reply": {"ok": True, "result": result}}),
    ]


def at_once(*reservations: list[Line]) -> list[Line]:
    """All requests are sent before the first reply arrives."""
    return [line for lines in zip(*reservations, strict=True) for line in lines]


def with_expiry(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply whose expiresAt, so far in seconds from now, is a time."""
    ttl_s = reply["result"]["expiresAt"]
    expires_at = datetime.fromtimestamp(time.time() + ttl_s, UTC).isoformat()
    return {**reply, "result": {**reply["result"], "expiresAt": expires_at}}


def release(ident: str, run: str) -> list[Line]:
    """A release of all claims that a run holds."""
    return [
        ("ask", {"id": ident, "op": "release-claims", "request": {"orgId": "o", "runId": run}}),
        ("reply", {"id": ident, "reply": {"ok": True, "result": {"releasedCount": 1}}}),
    ]


def run_request(ident: str) -> Line:
    """A request for the run."""
    return "ask", {"id": ident, "op": "get-export-run-by-id", "request": {"runId": ORG["runId"]}}


def run_reply(ident: str, status: str, *claims: str, **others: Any) -> Line:
    """The reply to a request for the run."""
    unknown = (
        "triggeredBy",
        "format",
        "targetSystem",
        "periodStart",
        "periodEnd",
        "retryOfRunId",
        "override",
        "trigger",
        "scope",
    )
    unsaid = ("error", "artifact", "externalAckId")
    run = {
        **ORG,
        **dict.fromkeys(unknown + unsaid),
        "status": status,
        "createdAt": AT,
        "finishedAt": AT,
        "claimIds": list(claims),
        "skippedClaims": [],
        "claimCount": len(claims),
        "skippedCount": 0,
        "hasConflict": False,
        **others,
    }
    return "reply", {"id": ident, "reply": {"ok": True, "result": run}}


def error_reply(ident: str, code: str) -> Line:
    """An error reply."""
    return "reply", {"id": ident, "reply": {"ok": False, "error": {"code": code}}}


@contextmanager
def written_ledger(tmp_path: Path, *lines: Line) -> Iterator[tuple[LedgerIndex, Bodies]]:
    """The index of a ledger with these lines. A line that has a time `t` keeps it."""
    tmp_path.mkdir(exist_ok=True)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for kind, fields in lines:
        is_lease = "expiresAt" in fields.get("reply", {}).get("result", {})
        ledger.note(kind, **(fields | {"reply": with_expiry(fields["reply"])} if is_lease else fields))
    ledger.close()
    with Bodies.of(ledger.path) as bodies:
        index = LedgerIndex(Verdict(), bodies)
        index.read(ledger.path)
        yield index, bodies


def verdict_on(tmp_path: Path, *lines: Line) -> Verdict:
    """The verdict on the replies of a ledger with these lines."""
    with written_ledger(tmp_path, *lines) as (index, _):
        index.judge_silence()
        index.judge_unexpected_replies()
        index.judge_workers()
    return index.verdict


def fault(*kinds: str, t: float = 10.0, back: float = 12.0, recovered: float = 13.0, calm: float = 14.0) -> list[Line]:
    """A fault that is undone, after which calm comes."""
    return [
        ("fault", {"kinds": kinds, "t": t}),
        ("back", {"at": back}),
        ("recovered", {"t": recovered}),
        ("calm", {"t": calm}),
    ]
