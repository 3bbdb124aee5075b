"""The contract of each released version, and what tells whether today's contract keeps it."""
