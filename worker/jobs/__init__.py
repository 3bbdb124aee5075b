"""What a worker does without a message that asks for it, at intervals: it publishes alerts and warns of stale runs."""
