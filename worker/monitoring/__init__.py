"""What an operator's programs can ask a worker: whether it lives, whether it can work, and its metrics."""
