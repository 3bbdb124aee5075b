"""A fault in the ledger: when it was there, and what it excuses."""

from dataclasses import dataclass, field
from typing import Final

HAND_OVER_MAX_S: Final = 20.0
"""A worker that lost its database alone goes on trying for so long. Then the others do its work."""

ALONE_WITHOUT_DATABASE: Final = "one worker without its database"

DATABASE_KINDS: Final = {
    ALONE_WITHOUT_DATABASE,
    "database killed",
    "database restarted",
    "database connections terminated",
    "tables locked",
    "database read-only",
    "database wire cut",
    "database wire frozen",
    "database wire slow",
}
"""Faults that do not touch the broker, the workers and the connections between them."""

CONTAINED_KINDS: Final = {"a run's row locked", "slow events", "bad requests"}
"""Faults that are about the organisations in the ledger only."""


@dataclass
class Fault:
    """One fault, or several that overlapped, with the times of each step back to calm."""

    kinds: list[str]
    start: float
    back: float | None = None
    """When the faults were undone."""

    recovered: float | None = None
    """When the service answered again."""

    calm: float | None = None
    """When all workers consumed again."""

    affected: set[str] = field(default_factory=set)
    """The organisations that a contained fault is about."""

    def touches(self, org: str | None) -> bool:
        """Whether it is about this organisation. None stands for any."""
        return org is None or not CONTAINED_KINDS.issuperset(self.kinds) or org in self.affected

    def explains_refusal(self, start: float) -> bool:
        """Whether a request that was sent at this time may get UNAVAILABLE for it."""
        return self.kinds != [ALONE_WITHOUT_DATABASE] or start < self.start + HAND_OVER_MAX_S or self.back is not None

    @property
    def of_the_database_alone(self) -> bool:
        """Whether only the database was broken."""
        return DATABASE_KINDS.issuperset(self.kinds)
