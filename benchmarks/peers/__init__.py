"""What the service is compared with. Each peer is a process of its own: `python -m benchmarks.peers.<name>`.

A peer imports nothing of the service. It finds broker and database by the same environment variables.
"""
