"""Whether a task is being cancelled. What is raised does not tell.

asyncpg's roll-back can fail with an error that takes the place of the cancellation which caused it; aiormq says
CancelledError, though nobody cancels, of a connection that went silent.
"""

import asyncio


def is_being_cancelled() -> bool:
    """Whether somebody cancels this task, or a time-out around it does."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
