"""What the service is measured against, each a process of its own: `python -m benchmarks.peers.<name>`.

A peer imports nothing of the service. Broker and database are those of the same variables of the environment.
"""
