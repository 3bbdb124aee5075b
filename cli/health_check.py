"""What a worker on this machine says of itself, by its HTTP port."""

import json
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

TIMEOUT_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024


def ask_health(host: str, port: int) -> dict[str, Any] | None:
    """The answer of /readyz: `ok`, and the `obstacles` by part. None where nobody answers like a worker."""
    try:
        answer = json.loads(get(host, port, "/readyz") or "")
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and {"ok", "obstacles"} <= answer.keys() else None


def get(host: str, port: int, path: str) -> str | None:
    """The body of an answer of the port, at most ANSWER_BYTES_MAX; None where nobody answers."""
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(ANSWER_BYTES_MAX).decode(errors="replace")
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
