"""The bodies that the benchmarks publish: events and requests."""

import json
import uuid
from collections.abc import Iterator
from random import Random
from typing import Final

from benchmarks.sizes import CLAIMS_PER_EVENT, EVENT_BYTES, KNOWN_CLAIMS_SHARE, Sizes

HISTORY_ORGANISATION: Final = "org-history"
BUSY_ORGANISATION: Final = "org-busy"
QUIET_ORGANISATION: Final = "org-quiet"
"""Organisations with many runs and with few. Both have the same newest runs, the same months and the same claims."""


def finished_events(count: int) -> Iterator[tuple[uuid.UUID, bytes]]:
    """New run-finished events of EVENT_BYTES each, with the ids of their runs."""
    for _ in range(count):
        run_id = uuid.uuid4()
        yield run_id, finished_event(run_id, run_id)


def new_events(count: int) -> Iterator[bytes]:
    """The same without the ids."""
    return (body for _, body in finished_events(count))


def finished_event(run_id: uuid.UUID, claims_of: uuid.UUID) -> bytes:
    """A run-finished event with the organisation and the claims of a run, this one or one before.

    Its `externalAckId` is as long as it takes to reach EVENT_BYTES.
    """
    claims = '","'.join(f"claim-{claims_of.hex[:20]}-{position:02}" for position in range(CLAIMS_PER_EVENT))
    body = (
        f'{{"eventId":"{uuid.uuid4()}","schemaVersion":1,"occurredAt":"2026-01-31T09:30:07Z","runId":"{run_id}",'
        f'"orgId":"org-{claims_of.int % 1000:04}","status":"completed","claimIds":["{claims}"],"externalAckId":"'
    )
    return f'{body}{"x" * (EVENT_BYTES - len(body) - 2)}"}}'.encode()


class StoredClaims:
    """Requests about the claims in a filled database. Their names are computed as in sql/fill_claims.sql."""

    def __init__(self, claims: int, sizes: Sizes, random: Random) -> None:
        self._organisations = sizes.organisations
        self._runs_per_organisation = claims // CLAIMS_PER_EVENT // sizes.organisations
        self._random = random

    def check(self, claims: int) -> dict[str, object]:
        """A check-claims request of one organisation for this many claims. KNOWN_CLAIMS_SHARE of them are stored."""
        organisation = self._random.randrange(self._organisations)
        known = [self._known(organisation) for _ in range(claims) if self._random.random() < KNOWN_CLAIMS_SHARE]
        unknown = [f"new-{self._random.randrange(10**12):012}" for _ in range(claims - len(known))]
        claim_ids = known + unknown
        self._random.shuffle(claim_ids)
        return {"orgId": f"org-{organisation:04}", "claimIds": claim_ids}

    def reserve(self, claims: int) -> dict[str, object]:
        """A reserve-claims request for this many new claims."""
        run_id = uuid.uuid4()
        names = [f"leased-{run_id.hex[:20]}-{number:03}" for number in range(claims)]
        return {"orgId": "org-0000", "runId": str(run_id), "claimIds": names}

    def checks(self, count: int, claims: int = 1) -> list[bytes]:
        """The bodies of `count` check-claims requests for this many claims each."""
        return [encoded(self.check(claims)) for _ in range(count)]

    def _known(self, organisation: int) -> str:
        run = organisation + self._organisations * self._random.randrange(self._runs_per_organisation)
        return f"claim-{run * CLAIMS_PER_EVENT + self._random.randrange(CLAIMS_PER_EVENT):012}"


def encoded(body: object) -> bytes:
    """A body as JSON."""
    return json.dumps(body).encode()
