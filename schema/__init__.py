"""The wire contract: events, requests, results, error codes, names and limits.

It imports nothing but pydantic, and its own files by relative imports only. So a client of the service can ship the
same files under another name.
"""
