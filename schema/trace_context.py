"""The trace that a message belongs to, as its headers say (W3C Trace Context, docs/CONTRACT.md)."""

from typing import NamedTuple

from . import names


class TraceContext(NamedTuple):
    """The span that a message comes from. Whoever makes one has checked both texts: at most 55 and 512 characters."""

    traceparent: str
    tracestate: str | None = None
    """What the tracing systems on the way have added, if anything."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a message that belongs to the same trace."""
        headers = {names.TRACEPARENT_HEADER: self.traceparent}
        if self.tracestate is not None:
            headers[names.TRACESTATE_HEADER] = self.tracestate
        return headers
