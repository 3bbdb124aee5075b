"""Bodies as JSON, also as JSON that Python would not write."""

import json
import re
from typing import Any

from tests.wire import Json

BODY_BYTES_MAX = 4 * 1024 * 1024

# A string that starts with @ stands for a JSON token that Python cannot write.
RAW_TOKEN = re.compile(r'"@([^"]+)"')
HUGE_FLOAT = "@1e200000"


def encode(message: Json, **json_options: Any) -> bytes:
    """A body: fields that are `...` are left out, tokens that start with @ are written as they are."""
    present = {name: value for name, value in message.items() if value is not ...}
    return RAW_TOKEN.sub(r"\1", json.dumps(present, **json_options)).encode()


def nested(levels: int) -> str:
    """A token: arrays in arrays."""
    return "@" + "[" * levels + "]" * levels
