"""What of PostgreSQL's errors means that its URL is wrong, or its role's permissions."""

from typing import Final

import asyncpg

from worker.tls_errors import certificate_sentence

_SQLSTATES: Final = (
    "08P01",  # a pooler refuses a parameter
    "28",  # the role, its password, or pg_hba.conf
    "3D000",  # no such database
    "42501",  # a permission is missing
    "42704",  # a parameter of the URL that PostgreSQL does not know
)


def misconfiguration(error: BaseException) -> str | None:
    """What is wrong with the URL or with the permissions, in a sentence; None if the error does not speak of them.

    The sentence holds what PostgreSQL said of roles, databases and tables, and never a password.
    """
    if isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_SQLSTATES):
        return f"PostgreSQL refuses it: {error.args[0] if error.args else type(error).__name__}"
    if isinstance(error, asyncpg.ClientConfigurationError):
        return "a parameter of the URL is wrong or missing"  # asyncpg quotes the URL
    cause: BaseException | None = error
    while cause is not None:
        if sentence := certificate_sentence(cause, "PostgreSQL"):
            return sentence
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return "the server at this address does not offer TLS, or is not PostgreSQL"
    return None
