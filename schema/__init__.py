"""The wire contract: events, requests, results, error codes, names and limits.

Imports only pydantic and itself, with relative imports, so that a client of the service can ship the same
files under another name.
"""
