"""What a worker on this machine says of itself, by its HTTP port."""

import json
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

TIMEOUT_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 64 * 1024


def ask_health(host: str, port: int) -> dict[str, Any] | None:
    """The answer of /readyz: `ok`, and the `obstacles` by part. None where nobody answers like a worker."""
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = json.loads(connection.getresponse().read(ANSWER_BYTES_MAX))
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) and {"ok", "obstacles"} <= answer.keys() else None
