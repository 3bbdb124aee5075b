"""An end for a worker whose event loop stands still.

A handler that never gives way would hold its events for ever: the broker takes them back and hands them to the next
worker, which they hold up in the same way. A process that has ended is started again, and the event that ended it
has been delivered once more: so it comes to its delivery limit, and out of the way.
"""

import asyncio
import faulthandler
from typing import Final

BLOCKED_MAX_S: Final = 60
"""So long the event loop may stand still. The longest step of a sound worker takes a fraction of a second."""

CHECKS: Final = 10
"""In that time, how often the loop says that it moves."""


async def end_if_blocked(blocked_max_s: float = BLOCKED_MAX_S) -> None:
    """End the process, with status 1 and the place on standard error, once the event loop stands still so long."""
    try:
        while True:
            faulthandler.dump_traceback_later(blocked_max_s, exit=True)
            await asyncio.sleep(blocked_max_s / CHECKS)
    finally:
        faulthandler.cancel_dump_traceback_later()
